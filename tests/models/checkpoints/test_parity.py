"""Networks of other projects against this package's: one file, the same logits, gradients and sizes."""

import importlib
import re

import pytest
import torch

from robustseg.models import load_segmentation_weights
from robustseg.models.checkpoints.recognise import LAYOUTS

from .parity import Case, Full, assert_same, parameters, refused

PROJECTS = (
    *("semseg", "drn", "dla", "espnet", "torchfcn"),
    *("torchvision_resnet", "mmseg_resnet", "segformer", "segmenter", "upernet"),
)


def listed(kind):
    """The projects' cases or full sizes, without those of packages that are not installed: their own tests say so."""
    for project in PROJECTS:
        try:
            module = importlib.import_module(f"{__package__}.test_{project}")
        except pytest.skip.Exception:
            continue
        for row in getattr(module, kind):
            yield pytest.param(row, id=f"{project} {row.name}")


@pytest.fixture(scope="module", params=listed("CASES"))
def case(request, tmp_path_factory):
    torch.manual_seed(0)
    reference = request.param.build()
    path = tmp_path_factory.mktemp("parity") / "model.pth"
    torch.save(request.param.wrap(reference.state_dict()), path)
    return request.param, reference.double(), path


def test_logits_and_gradients_are_the_references(case):
    row: Case
    row, reference, path = case
    assert [layout.name for layout in LAYOUTS if layout.recognises(reference.state_dict())] == [row.layout]
    model = row.ours()
    assert load_segmentation_weights(model, path)["layout"] == row.layout
    for size in row.sizes:
        assert_same(model, lambda images: row.logits(reference, images), *size, read=row.read)
    assert parameters(model) == parameters(reference) - row.surplus(reference)
    if row.auxiliary is not None:
        images = torch.rand(1, 3, 64, 80, dtype=torch.float64)
        with torch.no_grad():
            expected, (_, found) = row.auxiliary(reference, images), model.forward_with_aux(images)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_settings_that_the_shapes_do_not_show_are_asked_for(case):
    row, _, path = case
    for changed, words in row.refuses:
        message = refused(row.ours(**changed), path)
        assert re.search(words, message), (changed, message)


@pytest.mark.parametrize("row", listed("FULL"))
def test_full_size_has_the_same_tensors(row: Full):
    with torch.device("meta"):
        reference, network = row.build(), row.ours()
    (layout,) = (layout for layout in LAYOUTS if layout.recognises(reference.state_dict()))
    converted = layout.convert(reference.state_dict(), network)
    own = network.state_dict()
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}
    assert parameters(network) == parameters(reference) - row.surplus(reference)
    assert row.published in (None, parameters(network))
