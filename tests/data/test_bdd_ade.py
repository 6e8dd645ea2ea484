"""BDD100K and ADE20K."""

import numpy as np
import pytest
from PIL import Image

from . import trees
from .published import assert_holds, error_of, module


@pytest.mark.parametrize(("layout", "place"), [("bdd100k", ""), ("bdd100k", "bdd100k"), ("seg", ""), ("seg", "seg")])
def test_bdd100k_layouts(tmp_path, layout, place):
    truth = trees.bdd100k_tree(tmp_path, layout)
    data = module("BDD100K", tmp_path / place)
    for split in ("train", "val"):
        assert_holds(data.dataset(split), truth[split])


def test_bdd100k_label_ids_are_recognised(tmp_path):
    trees.bdd100k_tree(tmp_path)
    mask = next((tmp_path / "bdd100k/labels/sem_seg/masks/train").glob("*.png"))
    trees.save(mask, trees.random_mask(range(34), (48, 64), np.random.default_rng(0)))
    message = error_of("BDD100K", tmp_path)
    assert "label ids in place of train ids" in message
    assert "convert them by Cityscapes' table" in message
    assert "take the files" not in message
    assert "data.label_ids" not in message


def test_ade20k_may_count_void_as_a_class(tmp_path):
    truth = trees.ade20k_tree(tmp_path)
    plain, counted = module("ADE20K", tmp_path), module("ADE20K", tmp_path, count_void=True)
    assert (plain.num_classes, counted.num_classes) == (150, 151)
    assert len(counted.class_names) == len(counted.palette) == 151
    assert counted.class_names[:2] == ["unlabelled", "wall"]
    assert plain.class_names[0] == "wall"
    shifted = {name: (mask + 1).astype(np.uint8) for name, mask in truth["val"].items()}  # 255 becomes 0
    assert_holds(counted.dataset("val"), shifted)
    assert plain.dataset("val").fingerprint(0) != counted.dataset("val").fingerprint(0)


def test_ade20k_masks_that_are_shifted_already(tmp_path):
    trees.ade20k_tree(tmp_path)
    for path in (tmp_path / "ADEChallengeData2016/annotations").rglob("*.png"):
        with Image.open(path) as picture:
            shifted = np.asarray(picture) - np.uint8(1)
        trees.save(path, shifted)
    assert "1 seems to be subtracted already" in error_of("ADE20K", tmp_path)
    assert "1 seems to be subtracted already" in error_of("ADE20K", tmp_path, count_void=True)


def test_ade20k_root_may_be_the_folder_itself(tmp_path):
    truth = trees.ade20k_tree(tmp_path)
    assert_holds(module("ADE20K", tmp_path / "ADEChallengeData2016").dataset("val"), truth["val"])


def test_ade20k_has_two_classes_of_one_colour(tmp_path):
    with pytest.raises(ValueError, match="road and skyscraper have the same colour"):
        module("ADE20K", tmp_path, masks="colours")
