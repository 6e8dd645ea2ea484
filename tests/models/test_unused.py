from __future__ import annotations

import pytest
import torch

from robustseg.models import DeepLabV3, ExternalNetwork, PSPNet, UPerNet
from robustseg.models.unused import freeze_unused
from tests.helpers.nets import TinyNet, ToyNetwork
from tests.training.unused_worker import CLASSES, Alternating, Frozen, Needy, Spare, WithAux

SMALL = {"channels": 8, "backbone": "test_resnet"}
BUILD = {
    "PSPNet": lambda: PSPNet(CLASSES, **SMALL),
    "DeepLabV3": lambda: DeepLabV3(CLASSES, **SMALL),
    "UPerNet": lambda: UPerNet(CLASSES, **SMALL, level_norms=False),
    "toy": lambda: ToyNetwork(CLASSES, aux=True),
    "dict": lambda: ExternalNetwork(WithAux(), CLASSES),
    "values": lambda: ExternalNetwork(Needy(), CLASSES),
    "train mode only": lambda: ExternalNetwork(WithAux(True), CLASSES),
    "spare": lambda: Spare(CLASSES),
    "frozen": lambda: Frozen(CLASSES),
    "alternating": lambda: Alternating(CLASSES),
    "no Network": lambda: TinyNet(CLASSES),
}
AUX = {"dict": "module.extra", "values": "module.extra", "train mode only": "module.extra"}
AUX |= dict.fromkeys(("toy", "spare", "frozen"), "aux") | dict.fromkeys(("PSPNet", "DeepLabV3", "UPerNet"), "aux_head")


@pytest.mark.parametrize("with_aux", [True, False])
@pytest.mark.parametrize("name", BUILD)
def test_what_no_logit_depends_on_is_frozen_and_nothing_else_changes(name, with_aux):
    network = BUILD[name]().train()
    network.get_submodule(next(key for key, _ in network.named_modules() if key)).eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    given = {key for key, parameter in network.named_parameters() if not parameter.requires_grad}
    random = torch.get_rng_state()
    frozen = freeze_unused(network, with_aux=with_aux, values=True)
    expected = {"spare."} if name == "spare" else set()
    if not with_aux and name in AUX:
        expected.add(f"{AUX[name]}.")
    found = {key for key, parameter in network.named_parameters() if not parameter.requires_grad}
    assert found - given == {key for key, _ in network.named_parameters() if key.startswith(tuple(expected))}
    assert frozen == {parameter for key, parameter in network.named_parameters() if key in found - given}
    assert modes == [module.training for module in network.modules()]
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(random, torch.get_rng_state())
