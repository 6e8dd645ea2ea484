import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from robustseg.models import Network, SegmentationModel
from tests.helpers.paths import ROOT

FOLDER = ROOT / "configs" / "network"
FILES = sorted(FOLDER.glob("*.yaml"))


def parse(path):
    """Read a fragment as LightningCLI does: by bare class name, with num_classes linked from the data."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Network, "model.network", required=True)
    content = yaml.safe_load(path.read_text())
    content["model"] = {"network": content["model"]["network"]}
    assert "num_classes" not in content["model"]["network"]["init_args"], "num_classes comes from the data"
    init_args = content["model"]["network"]["init_args"]
    init_args.update(num_classes=6, **{key: False for key in init_args if key == "pretrained"})
    return parser, parser.parse_object(content)


def test_there_are_fragments():
    assert {path.stem for path in FILES} >= {
        "pspnet_r50",
        "deeplabv3_r50",
        "fcn_r50",
        "pspnet_small",
        "deeplabv3_small",
    }


# Shapes need no memory: on the meta device a VGG of 500 MB takes as long as a small network.
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("device", ["meta", pytest.param("cpu", marks=pytest.mark.exhaustive)])
def test_fragment_builds_the_network_it_is_named_after(path, device):
    parser, config = parse(path)
    with torch.device(device), torch.no_grad():
        network = parser.instantiate_classes(config).model.network
        noun = path.stem.split("_")[0]
        assert type(network).__name__.lower() in (noun, f"{noun.rstrip('0123456789')}seg")  # drn_d_22, dla34
        model = SegmentationModel(network).to(device).eval()
        assert model(torch.rand(1, 3, 33, 47)).shape == (1, 6, 33, 47)


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.endswith("_small")], ids=lambda path: path.stem)
def test_small_networks_need_no_download_and_fit_a_laptop(path):
    init_args = yaml.safe_load(path.read_text())["model"]["network"]["init_args"]
    assert "pretrained" not in init_args
    parser, config = parse(path)
    with torch.device("meta"):
        network = parser.instantiate_classes(config).model.network
    assert sum(parameter.numel() for parameter in network.parameters()) < 3_000_000
