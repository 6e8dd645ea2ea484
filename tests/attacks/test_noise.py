"""Random numbers of the attacks: equal to the literal ones, independent of the batch and the device, and random."""

import copy
import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from statistics import NormalDist

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from robustseg.attacks import NOISE_VERSION, NoiseSource, bits

from . import reference_noise as literal

CPU = torch.device("cpu")
IDS = ["a", "b", "val/c", "日本"]
IMAGE = (3, 5, 7)


def samples(ids: list[str] = IDS, seed: object = (7, 0), step: int = 0) -> NoiseSource:
    return NoiseSource.for_samples(seed, ids, CPU, step)  # type: ignore[arg-type]


def rows(seed: int = 3) -> NoiseSource:
    return NoiseSource(seed, None, CPU)


def test_a_change_of_the_numbers_raises_the_version():
    """Change the figures below only together with NOISE_VERSION: evaluations and runs rely on them."""
    source = samples()
    drawn = [source.uniform(torch.empty(4, *IMAGE)), source.normal(torch.empty(4, *IMAGE))]
    drawn.append(source.uniform(torch.empty(4, *IMAGE, dtype=torch.float64)))
    drawn += [source.fork(5).uniform(torch.empty(4, *IMAGE)), rows().uniform(torch.empty(4, *IMAGE))]
    content = b"".join(each.numpy().tobytes() for each in drawn) + repr([source.scalar() for _ in range(3)]).encode()
    generated = NoiseSource.from_generator(torch.Generator().manual_seed(0), CPU).scalar()
    like = torch.empty(4, 3)
    assert (samples().uniform(like)[1] * 2**24).tolist() == [5844061, 1559959, 11891767]
    assert (samples().normal(like)[1] * 2**21).tolist() == [1966770, 3522966, 783210]
    assert (NOISE_VERSION, hashlib.sha256(content).hexdigest()[:16], generated) == (
        2,
        "4f3e8a392a72e650",
        0.004985490619794253,
    )


def test_numbers_are_the_literal_ones():
    source, seed = samples(), literal.digest("batch", (7, 0), 0)
    images = [literal.digest("sample", sample) for sample in IDS]
    shape = (4, *IMAGE)
    for draw in range(3):
        expected = [[literal.uniform(literal.draw_key(seed, i, draw), n) for n in range(105)] for i in images]
        assert source.uniform(torch.empty(shape)).flatten(1).tolist() == [list(map(float, row)) for row in expected]
    keys = [[literal.draw_key(seed, image, draw) for draw in (3, 4)] for image in images]
    expected = [[literal.uniform_double(*pair, n) for n in range(105)] for pair in keys]
    found = source.uniform(torch.empty(shape, dtype=torch.float64)).flatten(1)
    assert [list(map(Fraction, row)) for row in found.tolist()] == expected
    keys = [literal.draw_key(seed, image, 5) for image in images]
    expected = [[literal.normal(literal.word(key, n)) for n in range(105)] for key in keys]
    torch.testing.assert_close(
        source.normal(torch.empty(shape)).flatten(1).double(), torch.tensor(expected).double(), rtol=0, atol=2e-5
    )
    assert [Fraction(source.scalar()) for _ in range(4)] == [literal.scalar(seed, draw) for draw in range(1, 5)]
    by_row = rows(9).uniform(torch.empty(2, 4))
    assert by_row.tolist() == [[float(literal.uniform(literal.draw_key(9, i, 0), n)) for n in range(4)] for i in (0, 1)]


def test_an_image_keeps_its_numbers_in_any_batch_and_order():
    shape = (4, *IMAGE)
    whole = samples()
    draws = [whole.uniform(torch.empty(shape)), whole.normal(torch.empty(shape)), whole.uniform(torch.empty(shape))]
    for order in ([2], [3, 0], [1, 0, 3, 2]):
        part = samples([IDS[row] for row in order])
        like = torch.empty(len(order), *IMAGE)
        for draw, expected in zip((part.uniform, part.normal, part.uniform), draws, strict=True):
            assert torch.equal(draw(like), expected[order])


@pytest.mark.parametrize("make", [samples, rows])
def test_part_of_a_batch_has_the_numbers_of_the_whole(make: Callable[[], NoiseSource]):
    shape = (4, *IMAGE)
    whole = make()
    first, second = whole.uniform(torch.empty(shape)), whole.uniform(torch.empty(shape))
    part = make().select(torch.tensor([3, 1, 0]), 4)
    assert torch.equal(part.uniform(torch.empty(3, *IMAGE)), first[[3, 1, 0]])
    inner = part.select(torch.tensor([0, 2]), 3)
    assert torch.equal(inner.uniform(torch.empty(2, *IMAGE)), second[[3, 0]])
    # Image 1 was absent from the second draw, and has it still before it.
    assert torch.equal(part.select(torch.tensor([1]), 3).uniform(torch.empty(1, *IMAGE)), second[[1]])


def test_parts_share_their_scalars_and_forks_do_not():
    source = samples()
    part = source.select(torch.tensor([1]), 4)
    found = [source.scalar(), part.scalar(), source.scalar()]
    fresh = samples()
    assert found == [fresh.scalar() for _ in range(3)]
    assert fresh.fork(0).scalar() == samples_after(3)
    assert fresh.scalar() == samples_after(3), "a fork does not advance its source"
    assert samples().fork(1).scalar() == fresh.fork(1).scalar() != samples().scalar()


def samples_after(count: int) -> float:
    source = samples()
    return [source.scalar() for _ in range(count + 1)][-1]


@pytest.mark.parametrize("make", [samples, rows])
def test_forks(make: Callable[[], NoiseSource]):
    like = torch.empty(4, *IMAGE)
    source = make()
    first = source.uniform(like)
    continued, others = source.fork(0), [source.fork(seed) for seed in (1, 2)]
    second = source.uniform(like)
    assert torch.equal(continued.uniform(like), second)
    drawn = [first, second, *(other.uniform(like) for other in others)]
    assert all(not torch.equal(a, b) for n, a in enumerate(drawn) for b in drawn[:n])
    assert torch.equal(make().fork(2).uniform(like), drawn[-1]), "not a function of the draws before"
    rows_of = torch.tensor([2, 0])
    assert torch.equal(make().select(rows_of, 4).fork(2).uniform(like[:2]), drawn[-1][rows_of])
    assert torch.equal(make().fork(2).select(rows_of, 4).uniform(like[:2]), drawn[-1][rows_of])


def test_a_source_by_rows_serves_batches_of_several_sizes_and_others_refuse_them():
    source = rows()
    alone, both = source.uniform(torch.empty(1, 6)), source.uniform(torch.empty(2, 6))
    again = rows()
    first, second = again.uniform(torch.empty(2, 6)), again.uniform(torch.empty(2, 6))
    assert torch.equal(alone, first[:1])
    assert torch.equal(both, torch.stack([second[0], first[1]]))
    with pytest.raises(ValueError, match="noise for 4 samples was given to a batch of 2 images"):
        samples().uniform(torch.empty(2, 6))
    with pytest.raises(ValueError, match="noise for 1 samples was given to a batch of 2 images"):
        rows().select(torch.tensor([1]), 2).uniform(torch.empty(2, 6))


def test_memory_format_and_strides_change_nothing():
    expected = samples().uniform(torch.empty(4, 3, 6, 8))
    for like in (
        torch.empty(4, 3, 6, 8).to(memory_format=torch.channels_last),
        torch.empty(4, 6, 8, 3).permute(0, 3, 1, 2),
        torch.empty(1, 1, 1, 1).expand(4, 3, 6, 8),
    ):
        assert torch.equal(samples().uniform(like), expected)
        assert samples().uniform(like).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_and_stays_below_one(dtype: torch.dtype):
    shape = (4, 100_000)
    expected, found = samples().uniform(torch.empty(shape)), samples().uniform(torch.empty(shape, dtype=dtype))
    assert found.dtype == dtype
    assert float(found.max()) < 1
    assert float(expected.to(dtype).max()) == 1, "rounding alone reaches 1 here"
    below = expected.to(dtype) < 1
    assert torch.equal(found[below], expected.to(dtype)[below])
    assert torch.equal(
        samples().normal(torch.empty(shape)).to(dtype), samples().normal(torch.empty(shape, dtype=dtype))
    )


def test_empty_draws():
    assert samples().uniform(torch.empty(4, 0, 3)).shape == (4, 0, 3)
    assert NoiseSource.for_samples(0, [], CPU).normal(torch.empty(0, 3)).shape == (0, 3)


def test_sources_made_in_inference_mode_are_used_outside():
    with torch.inference_mode():
        source, part = samples(), samples().select(torch.tensor([1]), 4)
        source.uniform(torch.empty(4, 2))
    assert source.uniform(torch.empty(4, 2)).shape == (4, 2)
    assert part.uniform(torch.empty(1, 2)).shape == (1, 2)


def test_other_default_types_change_nothing(monkeypatch: pytest.MonkeyPatch):
    expected = samples().uniform(torch.empty(4, 9)), samples().normal(torch.empty(4, 9))
    torch.set_default_dtype(torch.float64)
    try:
        like = torch.empty(4, 9, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            found = samples().uniform(like), samples().normal(like)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_on_a_gpu_no_other_device_and_no_double_is_involved(dtype: torch.dtype):
    """Fake tensors: mixed devices raise, and so does whatever waits for the device."""
    with FakeTensorMode() as fake:
        like = torch.empty(4, *IMAGE, device="cuda", dtype=dtype)
        source = NoiseSource.for_samples((1, 2), IDS, torch.device("cuda"))
        part = source.select(torch.arange(2, device="cuda"), 4)
        forked = part.fork(3)
        found = [source.uniform(like), source.normal(like), part.uniform(like[:2]), forked.normal(like[:2])]
        found.append(NoiseSource(1, None, torch.device("cuda")).uniform(like))
    assert fake is not None
    assert {(each.device.type, each.dtype) for each in found} == {("cuda", dtype)}


def test_no_generator_of_torch_is_asked(monkeypatch: pytest.MonkeyPatch):
    state = torch.get_rng_state()

    def refused(*args: object, **settings: object) -> None:
        raise AssertionError("a generator of torch was asked")

    for name in ("rand", "randn", "randint", "rand_like", "randn_like", "randperm", "Generator", "bernoulli"):
        monkeypatch.setattr(torch, name, refused)
    for source in (samples(), rows()):
        source.fork(1).select(torch.tensor([1]), 4).normal(torch.empty(1, 9))
        source.uniform(torch.empty(4, 9))
        source.scalar()
    monkeypatch.undo()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_advances_by_one_number_and_decides():
    generator = torch.Generator().manual_seed(4)
    before = copy.deepcopy(generator.get_state())
    source = NoiseSource.from_generator(generator, CPU)
    source.uniform(torch.empty(4, 900))
    after = torch.Generator().manual_seed(4)
    seed = int(torch.randint(2**63 - 1, (), generator=after))
    assert torch.equal(generator.get_state(), after.get_state())
    assert not torch.equal(generator.get_state(), before)
    assert NoiseSource(seed, None, CPU).scalar() == source.scalar()


# The quality of the numbers. Each limit is about five standard deviations of an ideal source; the numbers are fixed.

COUNT = 1 << 18


def words_of(key: int, count: int = COUNT) -> Tensor:
    return bits.words(torch.tensor([bits.signed(key)]), count)[0].long() & 0xFFFFFFFF


@pytest.mark.parametrize("key", [0, 1, 2**63, 0xFFFFFFFF, 0x123456789ABCDEF])
def test_uniform_over_the_interval_and_each_bit(key: int):
    found = words_of(key)
    assert stats.kstest(found[:100_000].double().numpy() / 2**32, "uniform").pvalue > 1e-5
    for low in range(0, 32, 8):  # each byte takes all values equally often
        seen = torch.bincount(found >> low & 0xFF, minlength=256)
        assert stats.chisquare(seen.numpy()).pvalue > 1e-5, f"bits from {low}"
    ones = torch.stack([found >> bit & 1 for bit in range(32)]).double() * 2 - 1
    assert float(ones.mean(1).abs().max()) < 5 / math.sqrt(COUNT)
    pairs = ones @ ones.T / COUNT - torch.eye(32)
    assert float(pairs.abs().max()) < 5.5 / math.sqrt(COUNT), "bits depend on each other"


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.double(), second.double()]))[0, 1]) * math.sqrt(len(first))


def test_neighbours_are_independent():
    image = samples().uniform(torch.empty(4, 3, 256, 256))
    for row in image:
        for shifted, kept in (
            (row[:, 1:], row[:, :-1]),
            (row[:, :, 1:], row[:, :, :-1]),
            (row[1:], row[:-1]),
            (row[:, 1:, 1:], row[:, :-1, :-1]),
        ):
            assert abs(correlation(shifted.flatten(), kept.flatten())) < 5
            pairs = (shifted.flatten() * 16).long() * 16 + (kept.flatten() * 16).long()
            assert stats.chisquare(torch.bincount(pairs, minlength=256).numpy()).pvalue > 1e-5


def test_images_draws_and_seeds_are_independent():
    like = torch.empty(4, 1 << 15)
    drawn = []
    for source in (samples(), samples(seed=(7, 1)), samples(seed=(6, 0)), samples(step=1), rows(0), rows(1), rows(2)):
        drawn += [*source.uniform(like), *source.uniform(like), *source.fork(1).uniform(like)]
    one_bit = [rows(1 << bit).uniform(like[:1])[0] for bit in range(3, 63, 9)]
    every = torch.stack([*drawn, *one_bit]).double()
    off = torch.corrcoef(every) - torch.eye(len(every))
    assert float(off.abs().max()) * math.sqrt(like.shape[1]) < 5.5
    # Neither are they one another's beginnings, shifted.
    assert len(torch.unique(every[:, 0])) == len(every)


def test_each_bit_of_key_and_index_changes_half_of_the_bits():
    keys = [literal.splitmix(number) for number in range(512)]
    base = bits.words(torch.tensor([bits.signed(key) for key in keys]), 64)
    for bit in range(64):
        other = bits.words(torch.tensor([bits.signed(key ^ 1 << bit) for key in keys]), 64)
        assert_half(base, other, f"bit {bit} of the key")
    index = torch.arange(64)
    for bit in range(6):
        assert_half(base, base[:, index ^ 1 << bit], f"bit {bit} of the index")
    for bit in range(64):
        numbers = torch.tensor([bits.signed(key) for key in keys])
        changed = bits.mixed(numbers) ^ bits.mixed(numbers ^ bits.signed(1 << bit))
        share = torch.stack([changed >> place & 1 for place in range(64)]).double().mean(1)
        assert float((share - 0.5).abs().max()) < 0.5 * 5.5 / math.sqrt(len(keys))


def assert_half(base: Tensor, other: Tensor, what: str) -> None:
    changed = base ^ other
    share = torch.stack([changed >> place & 1 for place in range(32)]).double().flatten(1).mean(1)
    assert float((share - 0.5).abs().max()) < 0.5 * 8 / math.sqrt(base.numel()), what


def test_normal_against_its_distribution():
    found = samples().normal(torch.empty(4, 1 << 20)).flatten().double()
    count = len(found)
    assert abs(float(found.mean())) < 5 / math.sqrt(count)
    assert abs(float((found**2).mean()) - 1) < 5 * math.sqrt(2 / count)
    assert abs(float((found**3).mean())) < 5 * math.sqrt(15 / count)
    assert abs(float((found**4).mean()) - 3) < 5 * math.sqrt(96 / count)
    assert stats.kstest(found[: 1 << 18].numpy(), "norm").pvalue > 1e-5
    for limit in (2.0, 3.0, 4.0, 4.5):
        share = 2 * NormalDist().cdf(-limit)
        for tail in (found > limit, found < -limit):
            assert abs(float(tail.double().mean()) - share / 2) < 5 * math.sqrt(share / 2 / count), limit
    assert 4.9 < float(found.abs().max()) <= 5.42


def test_normal_is_the_quantile_at_every_probability():
    """At both ends, around every octave, and at the middle; the largest error is that of the interpolation."""
    near = {max(0, min((1 << 23) - 1, (1 << k) + d)) for k in range(23) for d in range(-3, 4)}
    places = torch.tensor(sorted(near | set(range(0, 1 << 23, 4099)) | {(1 << 23) - 1}))
    for sign in (0, 1):
        found = bits.normal(((places << 9 | sign << 8) - (1 << 31) * 2 * (places >> 22)).to(torch.int32))
        expected = [literal.normal(int(place) << 9 | sign << 8) for place in places]
        error = (found.double() - torch.tensor(expected, dtype=torch.float64)).abs()
        assert float(error.max()) < 1e-5
        assert int((found > 0).sum()) in (0, len(places))


def test_the_table_is_the_same_with_any_mathematical_library():
    """Rounding would have to move a quantile a thousand times farther than the error of a logarithm."""
    quantile = NormalDist().inv_cdf
    table = bits._quantiles()
    places = [(1 + j / 128) * 2.0 ** (k - 25) for k in range(24) for j in range(128)] + [0.5]
    scaled = [-quantile(place) * 2**21 for place in places]
    assert [round(each) for each in scaled] == table.tolist()
    assert min(abs(abs(each % 1) - 0.5) for each in scaled) > 1e-5
    assert (table[:-1] > table[1:]).all()
