"""Errors about classes within classes name the class that was meant."""

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from robustseg.attacks import Attack
from robustseg.config.messages import _unknown_class


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"class_path": "PDG"}, "attacks: there is no class 'PDG'. Did you mean PDGD?"),
        (
            {"class_path": "APGD", "init_args": {"loss": {"class_path": "JensenShanon"}}},
            "loss: there is no class 'JensenShanon'. Did you mean JensenShannon? There are: BalancedMaskedCrossEntropy",
        ),
    ],
    ids=["attack", "loss"],
)
def test_unknown_class(attack: dict, message: str):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--attacks", type=dict[str, Attack])
    with pytest.raises(ArgumentError) as error:
        parser.parse_object({"attacks": {"a": attack}})
    assert (_unknown_class(str(error.value)) or "").startswith(message)
