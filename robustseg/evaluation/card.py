"""Result cards: the results of one evaluation, and the facts that they depend on, as typed objects.

``card.json`` is a :class:`Card`. Figures are stored beside the other keys of their row, by the keys of
:mod:`robustseg.evaluation.figures`; unknown keys are kept unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from robustseg.evaluation.figures import BY_KEY, FIGURES
from robustseg.evaluation.targets import TargetKind
from robustseg.metrics import has_spread

FORMAT: Final = 2
"""Version of the card's format. In format 1, attacks were described by flat texts, and a single image had a confidence
interval of zero width."""
CARD = "card.json"

Verdict = Literal["ok", "caution", "unreliable"]
FlagVerdict = Literal["ok", "caution", "unreliable", "not checked"]
UNKNOWN: Final = "unknown"
"""Value of ``trained_with`` if a file does not name the training attack."""


class Part(BaseModel):
    """The base class of a card's objects."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", protected_namespaces=())

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON with the keys that were given and no others."""
        return self.model_dump(exclude_unset=True)


class AttackSettings(Part):
    """All settings of an attack, see :meth:`robustseg.attacks.Attack.describe`."""

    attack: str = "attack"
    """Name of the attack's class."""
    eps: str | float | None = None
    norm: str | None = None
    targeted: bool = False
    inner: AttackSettings | None = None
    """Settings of the wrapped attack, for an attack around another one."""
    members: list[AttackSettings] = Field(default_factory=list)
    """Settings of the members of an ensemble."""

    @property
    def others(self) -> dict[str, Any]:
        """Settings other than the fields of this class."""
        return self.__pydantic_extra__ or {}

    @property
    def steps(self) -> int | None:
        """Number of steps of an attack without other attacks in it; None for others."""
        steps = self.others.get("steps")
        return steps if isinstance(steps, int) and not isinstance(steps, bool) else None

    def nested(self) -> Iterator[AttackSettings]:
        """Yield this attack and all attacks within it."""
        yield self
        for part in (*([] if self.inner is None else [self.inner]), *self.members):
            yield from part.nested()


class Figured(Part):
    """A row of figures."""

    needed: ClassVar[tuple[str, ...]] = ()
    """Keys of the figures that a row must have."""

    def __getitem__(self, key: str) -> float | None:
        """Return a figure by its key; None if it does not exist."""
        value: float | None = (self.__pydantic_extra__ or {}).get(key)
        return value

    def known(self, key: str) -> float:
        """Return a figure that must exist.

        Raises:
            AssertionError: It does not exist.
        """
        value = self[key]
        assert value is not None, key
        return value

    def interval(self, key: str) -> tuple[float, float] | None:
        """Return both ends of a figure's confidence interval; None if there is none."""
        return None

    def has(self, key: str) -> bool:
        """Return True if the row has the key of a figure, even with the value None."""
        return key in (self.__pydantic_extra__ or {})

    @property
    def complete(self) -> bool:
        """True if the row must have its figures."""
        return True

    @model_serializer(mode="wrap")
    def _figures_first(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = dump(self)
        return {key: found[key] for key in BY_KEY if key in found} | found

    @model_validator(mode="after")
    def _check_figures(self) -> Figured:
        if not self.complete:
            return self
        for key in self.needed:
            if not self.has(key):
                raise PydanticCustomError("missing_figure", "missing", {"key": key})
        for key, figure in BY_KEY.items():
            value = self[key]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and (figure.unit != "share" or 0 <= value <= 1)):
                what = "share between 0 and 1" if figure.unit == "share" else "number"
                raise PydanticCustomError("bad_figure", f"is not a {what}", {"key": key, "value": value})
        return self


Share = Annotated[float | None, Field(ge=0, le=1)]
"""A figure in [0, 1]; None if it does not exist."""


class Scores(Figured):
    """Scores of a data set."""

    needed: ClassVar[tuple[str, ...]] = tuple(figure.key for figure in FIGURES if figure.required)
    class_iou: dict[str, Share] = Field(default_factory=dict)
    images: int = 0
    confidence: dict[str, list[Share]] = Field(default_factory=dict)
    """Both ends of the 95 % confidence interval, by figure."""
    no_confidence: str | None = None
    """Reason why there are no intervals."""

    def interval(self, key: str) -> tuple[float, float] | None:  # noqa: D102
        ends = self.confidence.get(key, [])
        low, high = ends if len(ends) == 2 else (None, None)
        # Cards of earlier versions have intervals of no width, of images with the same figures.
        return None if low is None or high is None or not has_spread(low, high) else (low, high)


class AttackRow(Scores):
    """The scores under an attack, and the figures of the attack."""

    settings: AttackSettings
    error: str | None = None
    """Reason why the attack could not run; the row has no figures then."""
    gap: dict[str, float | None] = Field(default_factory=dict)
    """Difference between the clean and the robust value, by figure."""

    @property
    def complete(self) -> bool:  # noqa: D102
        return self.error is None


class PerImage(Scores):
    """The scores with each image under the attack that leaves the fewest correct pixels."""

    needed: ClassVar[tuple[str, ...]] = ("pixel_acc", "miou")
    chosen: dict[str, int] = Field(default_factory=dict)
    """Number of images on which each attack is that one, by its name."""


class Greedy(Figured):
    """The scores with one attack per image, chosen to lower the miou of all images together."""

    needed: ClassVar[tuple[str, ...]] = ("pixel_acc", "miou")
    chosen: dict[str, int] = Field(default_factory=dict)


class WorstCase(Part):
    """The worst cases over several attacks within one budget."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    per_image: PerImage | None = None
    greedy: Greedy | None = None

    def kinds(self) -> Iterator[tuple[Literal["per_image", "greedy"], PerImage | Greedy]]:
        """Yield the worst cases that exist, with their keys."""
        if self.per_image is not None:
            yield "per_image", self.per_image
        if self.greedy is not None:
            yield "greedy", self.greedy


class Flag(Part):
    """One of the ten checks of a card."""

    number: int
    """Number of the check, 1 to 10."""
    name: str
    verdict: FlagVerdict
    line: str
    """Finding of the check and, for a bad one, the remedy."""
    evidence: Any = None
    """The figures behind the verdict."""


class ModelFacts(Part):
    """The model that was evaluated."""

    network: str
    """Name of the network's class."""
    settings: dict[str, Any]
    """Constructor arguments of the network."""
    checkpoint: str | None
    """Name of the file with the weights; None if there is none."""
    sha256: str | None
    weights: str
    """raw or averaged."""
    layout: str | None = None
    """Name of the project that the file's tensor names come from, if it is another one."""
    window: dict[str, Any] | None = None
    execution: dict[str, Any] | None = None
    """Execution of the network, if not as written: ``compile`` with torch.compile's settings, ``channels_last``."""
    outputs: dict[str, Any] | None = None
    """``drop_classes`` and ``void_class``, outputs of the network that the data has no class for; None without any."""
    trained_with: AttackSettings | Literal["unknown"] | None = UNKNOWN
    """Settings of the attacker in the training loop; None for training on clean images only."""


class DataFacts(Part):
    """The data that were scored."""

    name: str
    split: str
    images: int
    split_images: int
    sha256: str
    class_names: list[str]
    ignore_index: int
    image_size: list[int] | None = None
    ids: list[str] | None = None
    """Ids of the scored samples; None for the whole split."""
    splits: dict[str, int] | None = None
    """Number of images in each split of the data set that was there; None in cards of earlier versions."""


class SearchFacts(Part):
    """The precision that attacks searched in, and what it cost; their results were judged in float32."""

    precision: str
    channels_last: bool
    images: int = 0
    """Number of images that were searched in float32 as well."""
    limit: float | None = None
    """Most points of pixel_acc that an attack may lose on them."""
    lost: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    """By attack and figure: how much more of it was left on these images than by the search in float32."""

    def most_lost(self, key: str = "pixel_acc") -> float | None:
        """Return the largest loss of a figure; None if nothing was measured."""
        return max((value for row in self.lost.values() if (value := row.get(key)) is not None), default=None)


class Protocol(Part):
    """The conditions of the measurement."""

    seed: int
    precision: str
    suite: str | None = None
    targets: TargetKind = "labels"
    """Targets of attacks and scores: the data's labels, or the model's own clean predictions."""
    search: SearchFacts | None = None
    """The precision of the attacks' searches; None for that of all forwards."""
    norm: str | None = None
    eps: str | float | None = None
    """norm and eps: the budget that all attacks with a bound share; None where they differ."""
    batch_sizes: list[int] = Field(default_factory=list)
    count_void: bool = False
    """True if the pixels that the data ignores count as the model's void class."""
    noise: int = 1
    """Version of the random numbers that a seed gives, see :data:`~robustseg.attacks.NOISE_VERSION`."""


class Threshold(Part):
    """The threshold of a detector."""

    value: Share
    false_positive_rate: Share
    images: int


class Accepted(Part):
    """The scores of the images that a detector accepts."""

    images: int | None = None
    pixel_acc: Share
    miou: Share


class WithRejection(Part):
    """The scores in which rejected images count, see :func:`~robustseg.evaluation.rejection.rejection_scores`."""

    pixel_acc: Share


class DetectorRow(Part):
    """The figures of a detector on the images of an attack, or on the clean ones."""

    error: str | None = None
    rejected: Share = None
    auc: Share = None
    accepted: Accepted | None = None
    with_rejection: WithRejection | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> DetectorRow:
        for key in ("rejected", "accepted", "with_rejection") if self.error is None else ():
            if key not in self.model_fields_set or (key != "rejected" and getattr(self, key) is None):
                raise PydanticCustomError("missing_figure", "missing", {"key": key})
        return self


class DetectorFacts(Part):
    """A detector in front of the model."""

    settings: dict[str, Any]
    threshold: Threshold
    clean: DetectorRow
    attacks: dict[str, DetectorRow]

    def rows(self) -> dict[str, DetectorRow]:
        """Return the rows of the clean images and of each attack."""
        return {"clean": self.clean, **self.attacks}

    @model_validator(mode="after")
    def _check_auc(self) -> DetectorFacts:
        for name, row in self.attacks.items():
            if row.error is None and "auc" not in row.model_fields_set:
                raise PydanticCustomError("missing_figure", "missing", {"key": f"attacks.{name}.auc"})
        return self


class Card(Part):
    """The result of one evaluation."""

    format: Literal[2] = FORMAT
    model: ModelFacts
    data: DataFacts
    protocol: Protocol
    versions: dict[str, str] | list[dict[str, str]]
    """Versions of the packages; a list if parts were measured with different ones."""
    commit: Any = None
    clean: Scores
    attacks: dict[str, AttackRow]
    worst_case: WorstCase | None = None
    checks: dict[str, Any] | None = None
    """Evidence of :func:`~robustseg.evaluation.checks.probe_model`, None where the model was not probed."""
    flags: list[Flag]
    verdict: Verdict
    detectors: dict[str, DetectorFacts] = Field(default_factory=dict)

    @property
    def ran(self) -> dict[str, AttackRow]:
        """The attacks that have figures, in the card's order."""
        return {name: row for name, row in self.attacks.items() if row.error is None}

    @property
    def versions_list(self) -> list[Mapping[str, str]]:
        """Each different set of versions."""
        return list(self.versions) if isinstance(self.versions, list) else [self.versions]

    @model_validator(mode="after")
    def _check_classes(self) -> Card:
        names = set(self.data.class_names)
        for where, row in {"clean": self.clean, **{f"attacks.{n}": row for n, row in self.ran.items()}}.items():
            if set(row.class_iou) != names:
                raise PydanticCustomError("classes", "does not have the classes of data.class_names", {"key": where})
        return self
