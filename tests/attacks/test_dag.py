"""DAG: closed forms, the literal reference, stopping, and what is refused."""

import math

import pytest
import torch

from robustseg.attacks import DAG, AttackStep
from robustseg.attacks.losses.base import IGNORED
from robustseg.attacks.minimum_norm import dag
from tests.helpers.nets import tiny_batch, tiny_net

from .comparison import assert_allowed
from .comparison_dag import SETTINGS, Recorded, batch, check_dag
from .test_closed_form import IMAGES, LABELS, WEIGHT, linear_model

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("name", SETTINGS)
def test_whole_attack(name: str):
    finished = check_dag(name)
    # Images that are finished show that they stay, and the others how the best is chosen.
    assert any(finished) or name == "short"
    assert not all(finished) or name in ("random", "runner-up", "runner-up l2")


def test_first_step_is_gamma_times_the_gradient_over_its_largest_entry():
    """Active are the pixels of label 1, of which r = −w; the largest entry of w is 2."""
    seen: list[AttackStep] = []
    DAG(step_size="1/8", steps=2)(linear_model(), IMAGES, LABELS, on_step=seen.append)
    r = (LABELS == 1).unsqueeze(1) * -WEIGHT.view(1, 3, 1, 1)
    assert torch.equal(seen[1].images_adv, IMAGES + r / 8 / 2)
    assert seen[0].loss.tolist() == pytest.approx([-3 * math.log(3), -math.log(3)], rel=1e-12)


@pytest.mark.parametrize("aim", ["random", "runner-up"])
@pytest.mark.parametrize("steps", [3, 4, 30])
def test_last_step_is_the_first_that_crosses_the_boundary(steps: int, aim: str):
    """Each step lowers the margin log 3 by γ·‖w‖₂²/‖w‖∞ = 5.25/16: the fourth crosses it."""
    seen: list[AttackStep] = []
    result = DAG(step_size="1/8", steps=steps, aim=aim).run(linear_model(), IMAGES, LABELS, on_step=seen.append)
    r = (LABELS == 1).unsqueeze(1) * -WEIGHT.view(1, 3, 1, 1)
    # None of the three steps before fools a pixel more: of equals the earliest is the clean image.
    taken = 4 if steps >= 4 else 0
    assert torch.equal(result.images_adv, IMAGES + taken * r / 16)
    assert len(seen) == min(steps, 10)
    assert result.backwards.tolist() == [min(steps, 10)] * 2
    assert result.forwards.tolist() == [min(steps + 1, 11) if steps < 10 else 10] * 2


def test_targeted_moves_the_pixels_that_do_not_show_the_target():
    seen: list[AttackStep] = []
    targets = torch.where(LABELS == 0, 0, 255)
    result = DAG(step_size="1/8", targeted=True)(linear_model(), IMAGES, targets, on_step=seen.append)
    r = (LABELS == 0).unsqueeze(1) * -WEIGHT.view(1, 3, 1, 1)
    assert torch.equal(result, IMAGES + 4 * r / 16)


def test_success_is_a_share_of_the_valid_pixels():
    """Five valid pixels, one of them wrong from the start, the others of growing margin."""
    model = linear_model()
    images = IMAGES[:1].repeat(1, 1, 1, 2)[..., :5]
    images = images + torch.linspace(0, 0.2, 5, dtype=torch.float64) * WEIGHT.sign().view(1, 3, 1, 1)
    targets = torch.ones(1, 2, 5, dtype=torch.long)
    targets[0, 0] = 255
    targets[0, 1, 4] = 0
    for success, fooled in ((0.2, 1), (0.4, 2), (0.41, 3), (0.8, 4), (1.0, 5)):
        images_adv = DAG(step_size="1/100", success=success)(model, images, targets)
        assert int(((model(images_adv).argmax(1) != targets) & (targets != 255)).sum()) == fooled


@pytest.mark.parametrize("name", ["random", "targeted linf", "runner-up l2"])
def test_looking_for_finished_images_changes_nothing(name: str, monkeypatch: Patch):
    model, (images, targets) = tiny_net(), batch()
    attack = DAG(**{"step_size": 0.03, "steps": 25, "success": 0.83, **SETTINGS[name]})
    results, shown = [], []
    for every in (1, 10, 1000):
        monkeypatch.setattr(dag, "LEAVE_EVERY", every)
        counts: list[int] = []
        result = attack.run(model, images, targets, on_step=lambda step, counts=counts: counts.append(len(step.rows)))
        results.append(result.images_adv)
        shown.append(sum(counts))
        assert int(result.backwards.sum()) == sum(counts)
    assert shown[0] < shown[1] < shown[2] == 75
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-12)


def test_unbounded_result_leaves_the_ball_and_the_bounded_one_does_not():
    model, (images, targets) = tiny_net(), tiny_batch()
    settings = {"step_size": 0.05, "steps": 30, "success": 1.0}
    assert float((DAG(**settings)(model, images, targets) - images).abs().max()) > 0.2
    for eps, norm in ((0.1, "linf"), (0.5, "l2")):
        assert_allowed(DAG(eps=eps, norm=norm, **settings)(model, images, targets), images, eps, norm)


def test_drawn_class_is_any_of_the_wrong_ones():
    targets = torch.randint(4, (2, 60, 50), generator=torch.Generator().manual_seed(1))
    targets[:, 0] = IGNORED
    drawn = dag._wrong_classes(targets, 4, Recorded())
    assert not (drawn == targets).any()
    for true in range(4):
        shares = [float((drawn[targets == true] == k).double().mean()) for k in range(4) if k != true]
        assert shares == pytest.approx([1 / 3] * 3, abs=0.05)


def test_two_classes_have_one_wrong_class():
    targets = torch.tensor([[[0, 1], [IGNORED, 0]]])
    assert dag._wrong_classes(targets, 2, Recorded())[0].tolist()[0] == [1, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_steps_are_not_lost_in_half_precision(dtype: torch.dtype):
    """Near 0.6 the neighbours of a bfloat16 are 1/256 apart, twice the step."""
    model = linear_model().float()
    model.bias.data[1] -= 0.3
    images = torch.full((1, 3, 2, 2), 0.6, dtype=dtype)
    targets = torch.ones(1, 2, 2, dtype=torch.long)
    images_adv = DAG()(lambda x: model(x.float()), images, targets)
    assert images_adv.dtype == dtype
    assert not (model(images_adv.float()).argmax(1) == 1).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": "0.5/0"}, r"step_size = '0.5/0' is not a number"),
        ({"aim": "best"}, r"aim = 'best': use random or runner-up"),
    ],
    ids=str,
)
def test_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DAG(**settings)
