"""What the study refuses, in one sentence and before anything is measured."""

from __future__ import annotations

import re

import pytest

from robustseg.attacks import BIM, DS, Houdini, PureClass, Strip, Text
from robustseg.studies import StudyError
from tests.studies.detection.tiny import ATTACKS, MAPS, detection, study_of, transfer_of

PGD2 = {"pgd": ATTACKS["pgd"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": {}}, "attacks = {}: name at least one attack"),
        ({"maps": {}}, "target_maps = {}: name at least one"),
        (
            {"attacks": {"pgd": BIM()}, "adaptive": None},
            "attacks: pgd_pure: attack = BIM is not targeted: give it targeted: true",
        ),
        (
            {"attacks": {"dag": DS(targeted=True)}, "sigmas": []},
            "attacks: dag_pure: attack = DS moves its targets with the image",
        ),
        (
            {"attacks": {"dag": DS(targeted=True)}, "attacked_k": []},
            "attacks: dag_pure: attack = DS moves its targets with the image",
        ),
        ({"k": []}, "k = []: give at least one value"),
        ({"k": [0]}, "k = 0: at least one pair of patches"),
        ({"k": [-1, 5]}, "k = -1: at least one pair of patches"),
        ({"k": [1, 5, 1]}, "k = [1, 5, 1]: 1 is there twice"),
        ({"attacked_k": [0]}, "attacks: dag_pure: k = 0: at least one patch is attacked"),
        ({"attacked_k": [2, 2]}, "attacked_k = [2, 2]: 2 is there twice"),
        ({"redrawn_k": [3, 3]}, "redrawn_k = [3, 3]: 3 is there twice"),
        ({"sigmas": [1.0, 1.0]}, "sigmas = [1.0, 1.0]: 1.0 is there twice"),
        ({"sigmas": [0.0]}, "sigma = 0.0: a positive standard deviation"),
        ({"sigmas": [-1.0]}, "sigma = -1.0: a positive standard deviation"),
        ({"patch_size": 0}, "patch_size = 0: a side in pixels"),
        ({"displacement": (2, 12)}, "displacement = [2, 12] leaves patches of 12 pixels without overlap"),
        ({"displacement": (4, 2)}, "displacement = (4, 2): [smallest, largest] in pixels expected"),
        ({"random_patch_size": (4, 12)}, "displacement = [2, 4] leaves patches of 4 pixels without overlap"),
        ({"adaptive": ["dag_pur"]}, "adaptive names 'dag_pur', but there are: dag_pure, dag_strip, pgd_pure"),
        ({"transfer": ["pure"]}, "transfer names 'pure', but there are: dag_pure"),
        ({"transfer": ["dag_pure", "dag_pure"]}, "dag_pure is there twice"),
        ({"entropy_k": 0}, "entropy_k = 0: use at least one vote of each pixel"),
        ({"entropy_images": -1}, "entropy_images = -1: use 0 for none"),
        ({"curve_k": 0}, "curve_k = 0: use at least one pair of patches"),
        ({"curve_steps": [1, 0]}, "curve_steps = [1, 0]: 0 is no number of steps"),
        ({"curve_steps": [1, 1]}, "curve_steps = [1, 1]: 1 is there twice"),
        ({"name": "a/b"}, "name = 'a/b': use letters"),
        (
            {
                "attacks": {"a": ATTACKS["pgd"], "a_b": ATTACKS["pgd"]},
                "maps": {"b_c": PureClass(1), "c": PureClass(2)},
                "adaptive": [],
            },
            "two attacks would both be called 'a_b_c': rename one",
        ),
        (
            {"maps": {"pure": PureClass(1), "pure blur1": PureClass(2)}},
            "two attacks would both be called 'dag_pure blur1': rename one",
        ),
    ],
)
def test_settings_that_cannot_be_used(changes, message):
    with pytest.raises(StudyError, match=re.escape(message)):
        detection(**changes)


def test_a_loss_that_tells_classes_apart_has_no_patches_that_are_redrawn():
    with pytest.raises(StudyError, match=r"attacks: h_pure: redraw = True with Houdini and .*set redraw to false"):
        detection({"h": Houdini(steps=1, task_loss="iou", targeted=True)}, adaptive=None, redrawn_k=[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 33}, "image test-000000: patch_size = 33 is larger than the images of 32×32 pixels: set "),
        ({"patch_size": 29}, "patch_size = 29 with displacement = [2, 4] takes 33 pixels, and the images have 32×32"),
        ({"random_patch_size": (20, 30)}, "patch_size = 30 with displacement = [2, 4] takes 34 pixels"),
        ({"sigmas": [1.0, 8.0]}, "sigma = 8 reaches 32 pixels far, and the images have 32×32"),
        ({"maps": {"pure": PureClass(1), "far": PureClass(7)}}, "target_maps: far wants class 7, but the model has 7"),
        ({"maps": {"far": Strip([0, 9])}}, "target_maps: far wants class 9, but the model has 7 classes: give it one"),
        ({"maps": {"text": Text("a very long text " * 9, 1, 2)}}, "image test-000000: "),
        ({"detected_on": ["psp"]}, "detected_on names 'psp', but the models are: the model."),
    ],
)
def test_images_and_models_that_do_not_fit_are_refused_before_anything_is_measured(tmp_path, changes, message):
    study = detection(**({"attacks": PGD2, "maps": MAPS, "adaptive": []} | changes))
    with pytest.raises(StudyError, match=re.escape(message)):
        study_of(tmp_path, study)
    with pytest.raises(StudyError, match=re.escape(message.replace("the model.", "a, b."))):
        transfer_of(tmp_path, study)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_detectors_does_not_mind_their_settings(tmp_path):
    """Detectors that do not fit the images are asked nothing there."""
    study = detection(PGD2, MAPS, adaptive=[], patch_size=33, detected_on=[], transfer=["pgd_pure"])
    result = transfer_of(tmp_path, study)
    assert result.rows == []
    assert len(result.extra["transfer"]) == 4
    assert (tmp_path / "study_detection.html").is_file()
