"""What holds for every attack: one table, one body per property."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustseg.attacks import Attack, InputTransform, IterativeAttack, NoiseSource
from tests.helpers.cases import partly
from tests.helpers.nets import CLASSES, HEIGHT, WIDTH, Around, per_pixel_net, tiny_batch, tiny_net

from .comparison import assert_allowed
from .table import LOOPS, RANDOM, ROWS, WITH_NORM, build, first_or_own_norm

CPU = torch.device("cpu")
every_norm = pytest.mark.parametrize(("name", "norm"), partly(WITH_NORM, first_or_own_norm))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def default_dtype(name: str, norm: str, dtype: torch.dtype) -> bool:
    if dtype == torch.float32:
        return first_or_own_norm(name, norm)
    return dtype == torch.bfloat16 and name in LOOPS


@pytest.mark.parametrize(
    ("name", "norm", "dtype"), partly([(*case, dtype) for case in WITH_NORM for dtype in DTYPES], default_dtype)
)
@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**16),
    eps=st.sampled_from(["8/255", "1/255", "0.3", "1", "1/3000"]),
    kind=st.sampled_from(["any", "zeros", "ones", "8-bit"]),
)
def test_ball_and_box(name: str, norm: str, dtype: torch.dtype, seed: int, eps: str, kind: str):
    images, targets = tiny_batch(torch.float64, seed=seed)
    images = {
        "any": images,
        "zeros": torch.zeros_like(images),
        "ones": torch.ones_like(images),
        "8-bit": (images * 255).round() / 255,
    }[kind].to(dtype)
    net = tiny_net(torch.float32)
    attack = build(name, eps, norm)
    radius = float(attack.threat.eps)
    images_adv = attack(
        Around(net, lambda x: net(x.float())),
        images,
        targets,
        generator=torch.Generator().manual_seed(seed),
        # On the way, an l2 or rms iterate in half precision may lie outside by its rounding; the result may not.
        on_step=lambda step: (
            norm != "linf" or ROWS[name].leaves_ball or assert_allowed(step.images_adv, images, radius, norm)
        ),
    )
    assert images_adv.dtype == dtype
    assert images_adv.shape == images.shape
    assert_allowed(images_adv, images, radius, norm)


@every_norm
def test_result_is_a_tensor_of_its_own(name: str, norm: str):
    images, targets = tiny_batch(torch.float32)
    given_images, given_targets = images.clone(), targets.clone()
    images_adv = build(name, 0.05, norm)(tiny_net(torch.float32), images, targets)
    assert torch.equal(images, given_images)
    assert torch.equal(targets, given_targets)
    assert not images_adv.requires_grad
    assert images_adv.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()


@every_norm
def test_radius_zero_returns_the_image_as_a_copy(name: str, norm: str):
    images, targets = tiny_batch(torch.float32)
    images_adv = build(name, 0, norm)(tiny_net(torch.float32), images, targets)
    assert torch.equal(images_adv, images)
    assert images_adv.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()
    assert not images_adv.requires_grad


@every_norm
def test_value_of_the_ignore_index_changes_nothing(name: str, norm: str):
    model, (images, targets) = tiny_net(), tiny_batch(ignore_index=255)
    results = [
        build(name, 0.05, norm, ignore_index=value)(model, images, targets.masked_fill(targets == 255, value))
        for value in (255, -1, -100, 7)
    ]
    for other in results[1:]:
        assert torch.equal(results[0], other)


class Watched(InputTransform):
    """Takes the place of an attack's transform and remembers where what the model is about to see is ignored."""

    def __init__(self, attack: Attack):
        self.seen: Tensor | None = None
        if isinstance(attack, IterativeAttack) and attack.transform is not None:
            self.inner, attack.transform = attack.transform, self

    def __call__(self, images_adv: Tensor, targets: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        self.seen, targets = self.inner(images_adv, targets, noise)
        self.ignored = targets < 0
        return self.seen, targets


@every_norm
@given(seed=st.integers(0, 2**16))
@settings(max_examples=4)
def test_logits_at_ignored_pixels_change_nothing(name: str, norm: str, seed: int):
    model, (images, targets) = tiny_net(), tiny_batch(seed=seed)
    ignored = targets == 255
    shift = 20 * torch.randn(CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def disturbed(x: Tensor) -> Tensor:
        seen = watched.seen is not None and torch.equal(x, watched.seen)
        mask = (watched.ignored if seen else ignored).unsqueeze(1)
        logits: Tensor = model(x)
        return torch.where(mask, logits * shift.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1), logits)

    attack = build(name, 0.05, norm)
    watched = Watched(attack)
    assert torch.equal(attack(model, images, targets), attack(Around(model, disturbed), images, targets))


@pytest.mark.parametrize(
    ("name", "norm"),
    partly(
        [
            (name, norm)
            for name, norm in WITH_NORM
            if not ROWS[name].random and ROWS[name].gradient and norm not in ROWS[name].edges
        ],
        first_or_own_norm,
    ),
)
def test_size_and_content_of_the_ignored_region_change_nothing(name: str, norm: str):
    """A frame of ignored pixels, once noise and once black, around an image that no pixel of it can influence."""
    model, (images, targets) = per_pixel_net(), tiny_batch()
    attack = build(name, 0.05, norm)
    expected = attack(model, images, targets)
    framed_targets = F.pad(targets, (2, 3, 4, 1), value=255)
    inside = (..., slice(4, 4 + HEIGHT), slice(2, 2 + WIDTH))
    for frame in (torch.zeros(2, 3, HEIGHT + 5, WIDTH + 5), torch.rand(2, 3, HEIGHT + 5, WIDTH + 5)):
        framed = frame.double()
        framed[inside] = images
        images_adv = attack(model, framed, framed_targets)
        torch.testing.assert_close(images_adv[inside], expected, rtol=0, atol=1e-12)


@every_norm
@pytest.mark.parametrize("seed", [3, pytest.param(77, marks=pytest.mark.exhaustive)])
def test_batch_composition_changes_nothing(name: str, norm: str, seed: int):
    model, (images, targets) = tiny_net(), tiny_batch(batch=4, seed=seed)
    # An image without any valid pixel and one that is right already must not disturb the others either.
    targets[3] = 255
    targets[2] = model(images[2:3]).argmax(1)[0]
    attack = build(name, 0.05, norm)

    def run(order: list[int]) -> dict[int, Tensor]:
        noise = NoiseSource.for_samples(seed, [f"image {i}" for i in order], CPU)
        return dict(zip(order, attack(model, images[order], targets[order], generator=noise), strict=True))

    together = run([0, 1, 2, 3])
    for order in ([0], [1], [2, 0], [3, 1, 0], [3]):
        for i, images_adv in run(order).items():
            torch.testing.assert_close(images_adv, together[i], rtol=0, atol=1e-9)


@every_norm
def test_seed_decides(name: str, norm: str):
    model, (images, targets) = tiny_net(), tiny_batch()

    def run(seed: int) -> Tensor:
        return build(name, 0.05, norm)(model, images, targets, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(run(0), run(0))
    assert torch.equal(run(0), run(1)) == (not ROWS[name].random)


@pytest.mark.parametrize("name", RANDOM)
def test_noise_of_samples_depends_on_seed_step_and_id(name: str):
    model, (images, targets) = tiny_net(), tiny_batch()
    attack = build(name)

    def run(seed: int, step: int, ids: list[str]) -> Tensor:
        return attack(model, images, targets, generator=NoiseSource.for_samples(seed, ids, CPU, step))

    first = run(0, 0, ["a", "b"])
    assert torch.equal(first, run(0, 0, ["a", "b"]))
    assert not torch.equal(first, run(1, 0, ["a", "b"]))
    assert not torch.equal(first, run(0, 1, ["a", "b"]))
    if not ROWS[name].shared_noise:
        assert not torch.equal(first, run(0, 0, ["a", "c"]))


def test_noise_for_another_number_of_samples_is_refused():
    model, (images, targets) = tiny_net(), tiny_batch()
    with pytest.raises(ValueError, match=r"3 samples.*batch of 2"):
        build("PGD")(model, images, targets, generator=NoiseSource.for_samples(0, ["a", "b", "c"], CPU))


@every_norm
def test_image_without_valid_pixels_is_left_out(name: str, norm: str):
    model, (images, targets) = tiny_net(), tiny_batch(batch=3)
    targets[1] = 255
    noise = NoiseSource.for_samples(0, ["a", "b", "c"], CPU)
    attack, seen = build(name, 0.05, norm), []
    result = attack.run(model, images, targets, generator=noise, on_step=lambda step: seen.append(step.rows))
    assert torch.equal(result.images_adv[1], images[1])
    assert result.images_adv.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()
    assert result.attacked.tolist() == [True, False, True]
    assert result.forwards[1] == result.backwards[1] == 0
    assert ((result.forwards[[0, 2]] > 0) == ROWS[name].asks).all()
    assert all(set(rows.tolist()) <= {0, 2} for rows in seen)
    alone = attack(model, images[[0, 2]], targets[[0, 2]], generator=NoiseSource.for_samples(0, ["a", "c"], CPU))
    torch.testing.assert_close(result.images_adv[[0, 2]], alone, rtol=0, atol=1e-9)
    # With one generator for the batch the others draw what they drew before.
    both = attack.run(model, images, targets, generator=torch.Generator().manual_seed(1))
    targets[1] = 0
    full = attack.run(model, images, targets, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(both.images_adv[[0, 2]], full.images_adv[[0, 2]], rtol=0, atol=1e-9)


@every_norm
def test_batch_without_any_valid_pixel(name: str, norm: str):
    images, targets = tiny_batch()
    result = build(name, 0.05, norm).run(tiny_net(), images, torch.full_like(targets, 255))
    assert torch.equal(result.images_adv, images)
    assert not result.attacked.any()
    assert not result.forwards.any()


def test_noise_of_one_sample_is_refused_for_a_larger_batch():
    noise = NoiseSource.for_samples(0, ["a"], CPU)
    with pytest.raises(ValueError, match=r"1 samples .* batch of 2"):
        noise.uniform(torch.zeros(2, 3, 4, 4))


@every_norm
def test_memory_format_changes_no_noise(name: str, norm: str):
    """The model answers in one memory format, so that nothing but the noise could differ."""
    net, (images, targets) = tiny_net(), tiny_batch(batch=3)
    model = Around(net, lambda x: net(x.contiguous()))
    ids = ["a", "b", "c"]
    expected, found = (
        build(name, 0.05, norm)(model, given, targets, generator=NoiseSource.for_samples(0, ids, CPU))
        for given in (images, images.to(memory_format=torch.channels_last))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@every_norm
def test_no_generator_of_torch_is_asked(name: str, norm: str, monkeypatch: pytest.MonkeyPatch):
    """With a source of noise, neither a global generator nor one of the attack's own: they differ between devices."""
    model, (images, targets) = tiny_net(), tiny_batch(batch=3)
    attack = build(name, 0.05, norm)
    noise = NoiseSource.for_samples(0, ["a", "b", "c"], CPU)

    def refused(*args: object, **settings: object) -> None:
        raise AssertionError("a generator of torch was asked")

    for draw in ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli"):
        monkeypatch.setattr(torch, draw, refused)
    for draw in ("normal", "multinomial", "Generator"):
        monkeypatch.setattr(torch, draw, refused)
    for draw in ("uniform_", "normal_", "random_", "bernoulli_"):
        monkeypatch.setattr(torch.Tensor, draw, refused)
    attack(model, images, targets, generator=noise)
