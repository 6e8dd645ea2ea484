"""The search in low precision: what runs in it, what judges in float32, and what cannot run."""

import threading

import pytest
import torch
from torch import Tensor, nn

from robustseg.attacks import (
    APGD,
    CW,
    DAG,
    PGD,
    ALMAProx,
    Attack,
    AttackError,
    CosPGD,
    DeepFool,
    NoiseSource,
    PureClass,
    Search,
    SourceEnsemble,
    Square,
    Targeted,
    UniversalPerturbation,
    Victim,
    WorstOf,
    attack_mode,
    correct_pixels,
)
from robustseg.attacks import precision as precision_module
from robustseg.detectors import OnPatches, ThroughBlur
from robustseg.evaluation.trace import Traced, trace_columns
from tests.attacks.table import ROWS
from tests.helpers.nets import TinyNet

BF16 = Search("bf16", channels_last=True)


class Recorder(nn.Module):
    """A small network that notes, for each forward, the dtype and layout that its convolutions compute in."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.last.weight *= 8
        self.noted: list[tuple[torch.dtype, bool, bool, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images - 0.5)
        found = self.last(self.norm(hidden).relu())
        channels_last = hidden.is_contiguous(memory_format=torch.channels_last)
        self.noted.append((hidden.dtype, channels_last, found.requires_grad, len(images)))
        return found

    def in_search(self) -> list[int]:
        return [count for dtype, last, _, count in self.noted if dtype == torch.bfloat16 and last]

    def in_float32(self) -> list[int]:
        return [count for dtype, last, _, count in self.noted if dtype == torch.float32 and not last]


@pytest.fixture
def net() -> Recorder:
    return Recorder().eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, 8, 10, generator=generator)
    targets = torch.randint(0, 4, (3, 8, 10), generator=generator)
    targets[:, 0] = 255
    return images, targets


def hits(net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        return correct_pixels(net(images), targets.masked_fill(targets == 255, -1)).flatten(1).sum(1)


FORMS = {
    "pgd": PGD(steps=3),
    "restarts": PGD(steps=3, restarts=2),
    "best": CosPGD(steps=3, keep="best"),
    "apgd": APGD(steps=12, shrinking=True),
    "worst": WorstOf([PGD(steps=2), CosPGD(steps=2)]),
    "square": Square(steps=12),
    "dag": DAG(steps=12, eps="8/255"),
    "cw": CW(steps=3, search_steps=2),
    "alma": ALMAProx(steps=4),
    "deepfool": DeepFool(steps=3),
    "map": Targeted(PGD(steps=2, targeted=True), PureClass(1)),
    "blur": ThroughBlur(PGD(steps=2), sigma=1.0),
    "both": ThroughBlur(PGD(steps=2), sigma=1.0, whole=True),
    "patches": OnPatches(PGD(steps=2), patch_size=4, k=2),
    "traced": Traced(PGD(steps=2)),
}


@pytest.mark.parametrize("name", FORMS)
def test_searches_in_bf16_and_judges_in_float32(net: Recorder, batch: tuple[Tensor, Tensor], name: str) -> None:
    images, targets = batch
    before = {key: value.clone() for key, value in net.state_dict().items()}
    result = FORMS[name].run(net, images, targets, search=BF16)
    searched, judged = net.in_search(), net.in_float32()
    assert searched
    assert judged[-1] >= 1, "the last forward judges"
    assert len(searched) + len(judged) == len(net.noted), "nothing ran in between"
    assert all(dtype == torch.bfloat16 for dtype, _, graph, _ in net.noted if graph), "gradients are of the search"
    if name != "patches":
        assert int(result.forwards.sum()) == sum(searched) + sum(judged), "all forwards are counted"
    assert result.images_adv.dtype == torch.float32
    assert result.images_adv.is_contiguous()
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not [module for module in net.modules() if "forward" in vars(module)]
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.exhaustive
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_attack_of_the_table(batch: tuple[Tensor, Tensor], row: str) -> None:
    images, targets = batch
    torch.manual_seed(0)
    net = TinyNet().eval()
    attack = ROWS[row].build(eps="8/255", norm=ROWS[row].norms[0], targeted=False, ignore_index=255)
    images_adv = attack(net, images, targets, search=BF16)
    assert (hits(net, images_adv, targets) <= hits(net, images, targets)).all()
    assert float((images_adv - images).abs().max()) <= 8 / 255 + 1e-6 or ROWS[row].norms[0] != "linf"


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_search_in_float32_with_the_channels_last(net: Recorder, batch: tuple[Tensor, Tensor], channels_last) -> None:
    search = Search("float32", channels_last=channels_last)
    found = PGD(steps=3)(net, *batch, search=search)
    assert {(dtype, last) for dtype, last, graph, _ in net.noted if graph} == {(torch.float32, channels_last)}
    assert (found - PGD(steps=3)(net, *batch)).abs().mean() < 1e-3


class Opposite(Recorder):
    """Answers in low precision with another sign: what a search finds there is wrong."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return -logits if logits.dtype == torch.bfloat16 else logits


@pytest.mark.parametrize("name", [name for name in FORMS if name not in ("blur", "both", "patches", "map")])
def test_no_result_is_weaker_than_the_clean_image(batch: tuple[Tensor, Tensor], name: str) -> None:
    images, net = batch[0], Opposite().eval()
    targets = net(images).argmax(1)
    images_adv = FORMS[name](net, images, targets, search=BF16)
    assert (hits(net, images_adv, targets) <= hits(net, images, targets)).all()


def test_a_trace_is_of_float32(batch: tuple[Tensor, Tensor]) -> None:
    images, net = batch[0], Opposite().eval()
    targets = net(images).argmax(1)
    result = Traced(PGD(steps=2, random_start=False)).run(net, images, targets, search=BF16)
    assert result.trace is not None
    assert result.trace[:, 0].tolist() == trace_columns(net(images), targets).tolist()
    assert result.forwards.tolist() == [2 * 2 + 2 + 1] * 3, "two of each step, two that judge the result, one traced"


class Blind(Recorder):
    """Is fooled completely in low precision, and never in float32: no image is finished."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        wanted = torch.zeros_like(logits)
        wanted[:, 0] = 1 if logits.dtype == torch.float32 else -1
        return wanted + 0 * logits


@pytest.mark.parametrize("name", ["apgd", "worst", "square", "dag", "cw", "alma", "deepfool"])
def test_images_finish_only_by_the_word_of_float32(batch: tuple[Tensor, Tensor], name: str) -> None:
    images, net = batch[0], Blind().eval()
    targets = torch.zeros(3, 8, 10, dtype=torch.int64)
    attack = {**FORMS, "square": Square(steps=25), "dag": DAG(steps=25), "apgd": APGD(steps=25)}[name]
    result = attack.run(net, images, targets, search=BF16)
    if name in ("apgd", "square", "dag"):
        assert min(result.forwards) > 25, "an image left by the word of the search"
    assert (hits(net, result.images_adv, targets) == 80).all()


def test_the_best_of_restarts_and_members_is_chosen_in_float32(net: Recorder, batch: tuple[Tensor, Tensor]) -> None:
    images, targets = batch

    class Fixed(Attack):
        def __init__(self, shift: float):
            super().__init__()
            self.shift, self.threat = shift, PGD(eps="32/255").threat

        def perturb(self, victim: Victim, images: Tensor, *rest: object) -> Tensor:
            victim(images.clone().requires_grad_())
            return self.threat.around(images).project(images + self.shift)

        def describe(self) -> dict[str, object]:
            return {"attack": "Fixed"}

    members = [Fixed(-0.1), Fixed(0.1)]
    images_adv = WorstOf(members)(net, images, targets, search=BF16)
    single = torch.stack([hits(net, member(net, images, targets), targets) for member in members])
    assert torch.equal(hits(net, images_adv, targets), torch.minimum(single.amin(0), hits(net, images, targets)))


def test_layers_that_are_called_otherwise_still_search(batch: tuple[Tensor, Tensor]) -> None:
    net = Recorder().eval()
    nn.utils.parametrizations.weight_norm(net.first)
    nn.utils.weight_norm(net.last)  # by a hook before the forward
    PGD(steps=2)(net, *batch, search=BF16)
    assert len(net.in_search()) == 2
    frozen = torch.jit.freeze(torch.jit.trace(Recorder().eval(), batch[0]))
    for model in (net, frozen, torch.jit.trace(Recorder().eval(), batch[0]), lambda images: net(images)):
        low = PGD(steps=3)(model, *batch, search=BF16)
        assert 0 < float((low - PGD(steps=3)(model, *batch)).abs().max()) <= 16 / 255 + 1e-6
    SourceEnsemble([net, Recorder(1).eval()])
    noted = len(net.in_search())
    PGD(steps=2)(SourceEnsemble([net, Recorder(1).eval()]), *batch, search=BF16)
    assert len(net.in_search()) == noted + 2


def test_a_model_with_autocast_of_its_own(batch: tuple[Tensor, Tensor]) -> None:
    class Exact(Recorder):
        def forward(self, images: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return super().forward(images.float())

    net = Exact().eval()
    PGD(steps=2)(net, *batch, search=BF16)
    assert {dtype for dtype, *_ in net.noted} == {torch.float32}

    class Narrow(Recorder):
        def forward(self, images: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(images)

    APGD(steps=12)(Narrow().eval(), *batch, search=BF16)  # its verdicts are bfloat16 as well
    outer = Recorder().eval()
    with torch.autocast("cpu", torch.bfloat16):
        PGD(steps=2)(outer, *batch, search=BF16)
    assert outer.in_float32() == [3, 3], "verdicts do not take the caller's autocast"


def test_the_weights_are_copied_once(net: Recorder, batch: tuple[Tensor, Tensor], monkeypatch) -> None:
    copied = []
    monkeypatch.setattr(
        precision_module._InSearch,
        "_copied",
        lambda self, tensor, own=precision_module._InSearch._copied: copied.append(tensor) or own(self, tensor),
    )
    PGD(steps=5)(net, *batch, search=BF16)
    assert len(copied) == 4, "two weights and two biases"


def test_another_thread_sees_the_models_own_weights(net: Recorder, batch: tuple[Tensor, Tensor]) -> None:
    expected, found = net(batch[0]), []
    with attack_mode(net, search=BF16) as searched:
        searched(batch[0])
        thread = threading.Thread(target=lambda: found.append(net(batch[0]).detach()))
        thread.start()
        thread.join()
        low = searched(batch[0])
    assert torch.equal(found[0], expected)
    assert not torch.equal(low, expected)
    assert low.dtype == torch.float32


def test_results_do_not_depend_on_the_batch(net: Recorder, batch: tuple[Tensor, Tensor]) -> None:
    images, targets = batch
    ids = ["a", "b", "c"]
    attack = APGD(steps=12)
    together = attack(net, images, targets, generator=NoiseSource.for_samples((0,), ids, images.device), search=BF16)
    for row, name in enumerate(ids):
        noise = NoiseSource.for_samples((0,), [name], images.device)
        alone = attack(net, images[row : row + 1], targets[row : row + 1], generator=noise, search=BF16)
        assert (hits(net, alone, targets[row : row + 1]) - hits(net, together, targets)[row]).abs() <= 1


def test_a_fit_of_a_universal_perturbation(net: Recorder, batch: tuple[Tensor, Tensor]) -> None:
    UniversalPerturbation(eps="8/255", epochs=2).fit(net, [batch], search=BF16)
    assert len(net.in_search()) == len(net.noted) == 2


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        found = self.conv(images)
        return found.view(len(images), -1).view_as(found).contiguous()


def test_bad_input(net: Recorder, batch: tuple[Tensor, Tensor], monkeypatch) -> None:
    images, targets = batch
    with pytest.raises(AttackError, match=r"set search\.channels_last to false"):
        PGD(steps=1)(Viewing(), images, targets, search=BF16)
    PGD(steps=1)(Viewing(), images, targets, search=Search("bf16", channels_last=False))
    with pytest.raises(AttackError, match=r"float64, and results are judged in float32: use search\.precision"):
        PGD(steps=1)(net.double(), images.double(), targets, search=BF16)
    with pytest.raises(AttackError, match="images and model are in bfloat16"):
        PGD(steps=1)(net.bfloat16(), images.bfloat16(), targets, search=BF16)
    with pytest.raises(ValueError, match=r"search\.precision = 'half': use bf16, fp16, float32"):
        Search("half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"search\.channels_last = 'yes'"):
        Search(channels_last="yes")  # type: ignore[arg-type]
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False, raising=False)
    with pytest.raises(AttackError, match="this CPU does not compute in it: use search"):
        PGD(steps=1)(Recorder().eval(), images, targets, search=Search("fp16"))


def test_a_gpu_without_bf16(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device: True)
    cuda = torch.device("cuda")
    assert "this GPU does not compute in it" in BF16.why_not(cuda)
    assert not Search("fp16").why_not(cuda)
    assert not Search("float32").why_not(cuda)
