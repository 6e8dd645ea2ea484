from fractions import Fraction

import pytest

from robustseg.types import parse_fraction


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("8/255", Fraction(8, 255)),
        (" 8 / 255 ", Fraction(8, 255)),
        (0.03, Fraction(3, 100)),
        ("0.03", Fraction(3, 100)),
        (1, Fraction(1)),
        (1e-3, Fraction(1, 1000)),
        (Fraction(1, 3), Fraction(1, 3)),
    ],
)
def test_numbers_are_read_exactly(written, meant):
    assert parse_fraction(written) == meant


@pytest.mark.parametrize("written", ["eight", "1 2", "1/0", "8/", "", float("nan"), float("inf"), "8//255"])
def test_anything_else_is_refused_by_name(written):
    with pytest.raises(ValueError, match=r"eps = .* is not a number.*8/255"):
        parse_fraction(written, "eps")
