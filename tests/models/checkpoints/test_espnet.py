"""Checkpoints of sacmehta/ESPNet, against a restatement of its network, and against its authors' CamVid file."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from robustseg.models import ESPNet, ModelError, SegmentationModel, load_segmentation_weights
from robustseg.models.checkpoints.inspect import describe_file, describe_fit
from robustseg.models.checkpoints.layouts.espnet import ESPNET
from robustseg.models.checkpoints.read import read_weights
from tests.helpers.real import published

from .parity import Case, misnormalised, normalised_by, refused
from .reference_espnet import espnet
from .reference_tensors import Restated

MEAN = (0.41189488, 0.42513279, 0.43267069)
STD = tuple(255 * value for value in (0.27413470, 0.28506175, 0.28284592))


def reference(p, q, classes):
    return Restated(lambda tensors, images: espnet(tensors, images, p, q, classes), 64)


def ours(classes=12, p=2, q=3, normalisation="camvid"):
    return misnormalised(ESPNet(classes, p, q, normalisation))


def logits(network, images):
    # of that standard deviation the images would be too small to matter beside random weights
    return network(normalised_by(images, MEAN, STD).flip(1))


CASES = [
    Case(
        "p2 q3",
        ESPNET.name,
        partial(reference, 2, 3, 12),
        ours,
        sizes=((48, 64),),
        logits=logits,
        refuses=(
            ({"normalisation": "imagenet"}, "needs normalisation: camvid .*network/espnet_camvid"),
            ({"classes": 20}, r"trained with 12 classes, the model has 20: use the data set .*init_without: \[.*class"),
            ({"classes": 11}, r"trained with 12 classes, the model has 11: .*in model\.drop_classes, or give"),
            ({"p": 1}, r"sacmehta/ESPNet.*blocks2.*take the network with p: 2|sacmehta/ESPNet.*blocks2"),
        ),
    ),
    Case("p1 q1", ESPNET.name, partial(reference, 1, 1, 7), partial(ours, 7, 1, 1), sizes=((40, 48),), logits=logits),
]
FULL = []


def published_model(**options):
    return SegmentationModel(ESPNet(12, normalisation="camvid"), **options).eval()


def test_the_published_file_gives_its_authors_logits():
    folder = published()
    model = published_model()
    info = load_segmentation_weights(model, folder / "espnet_p2_q8_camvid.pth")
    assert info["layout"] == ESPNET.name
    stored = load_file(folder / "espnet_p2_q8_camvid_reference.safetensors")
    with torch.no_grad():
        found = model(stored["images"])
    torch.testing.assert_close(found, stored["logits"], rtol=0.0, atol=1e-4)


def test_the_published_file_is_described():
    text = describe_file(read_weights(published() / "espnet_p2_q8_camvid.pth"))
    for words in (ESPNET.name, "espnet_camvid", "12"):
        assert words in text, text


def test_inspect_finds_the_number_of_outputs(tmp_path):
    torch.save(reference(2, 8, 12).state_dict(), tmp_path / "weights.pth")
    reading = read_weights(tmp_path / "weights.pth")
    assert "12" in describe_file(reading)
    text, fits = describe_fit(reading, lambda count: ESPNet(count, normalisation="camvid"), None)
    assert fits
    assert "ESPNet of 12 classes" in text


def test_an_encoder_alone_is_refused(tmp_path):
    whole = reference(2, 3, 12).state_dict()
    inner = {key.removeprefix("encoder."): value for key, value in whole.items() if key.startswith("encoder.")}
    torch.save(inner, tmp_path / "encoder.pth")
    assert "it holds only the encoder of a sacmehta/ESPNet" in refused(ours(), tmp_path / "encoder.pth")


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (33, 47)])
def test_any_size_and_any_number_of_classes(size):
    for classes in (1, 3, 11):
        model = SegmentationModel(ESPNet(classes, 1, 1)).eval()
        images = torch.rand(1, 3, *size, requires_grad=True)
        found = model(images)
        assert found.shape == (1, classes, *size)
        (grad,) = torch.autograd.grad(found.square().sum(), images)
        assert grad.abs().amax(1).min() > 0, "a pixel without influence"


def test_padding_is_the_mean_colour():
    model = SegmentationModel(ESPNet(5, 1, 1)).eval()
    images = torch.rand(1, 3, 33, 47)
    padded = model.mean.expand(1, 3, 40, 48).clone()
    padded[..., :33, :47] = images
    with torch.no_grad():
        torch.testing.assert_close(model(images), model(padded)[..., :33, :47])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"p": 0}, "p = 0"), ({"q": 0}, "q = 0"), ({"normalisation": "caffe"}, "camvid expected")],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ModelError, match=words):
        ESPNet(4, **arguments)
