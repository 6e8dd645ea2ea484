"""Result cards: everything that one evaluation found, and what it is the result of, as typed objects.

``card.json`` is a :class:`Card`. Figures stand in it beside the other keys of their row, by the keys of
:mod:`robustseg.evaluation.figures`; further keys are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from robustseg.evaluation.figures import BY_KEY, FIGURES

FORMAT: Final = 2
"""Of the card. 1: attacks were described by flat texts, and one image had an interval of zero width."""
CARD = "card.json"

Verdict = Literal["ok", "caution", "unreliable"]
FlagVerdict = Literal["ok", "caution", "unreliable", "not checked"]
UNKNOWN: Final = "unknown"
"""In place of the training attack where a file does not say."""


class Part(BaseModel):
    """An object of a card."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", protected_namespaces=())

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, with the keys that were given and no others."""
        return self.model_dump(exclude_unset=True)


class AttackSettings(Part):
    """An attack as it describes itself, see :meth:`robustseg.attacks.Attack.describe`; all settings are in it."""

    attack: str = "attack"
    """Its class."""
    eps: str | float | None = None
    norm: str | None = None
    targeted: bool = False
    inner: AttackSettings | None = None
    """Of an attack around another one."""
    members: list[AttackSettings] = Field(default_factory=list)
    """Of an ensemble."""

    @property
    def others(self) -> dict[str, Any]:
        """Settings without a field here."""
        return self.__pydantic_extra__ or {}

    @property
    def steps(self) -> int | None:
        """Of an attack that is a single run with nothing else in it."""
        steps = self.others.get("steps")
        return steps if isinstance(steps, int) and not isinstance(steps, bool) else None

    def nested(self) -> Iterator[AttackSettings]:
        """This attack and those within it."""
        yield self
        for part in (*([] if self.inner is None else [self.inner]), *self.members):
            yield from part.nested()


class Figured(Part):
    """A row of figures."""

    needed: ClassVar[tuple[str, ...]] = ()
    """Figures without which there is no row."""

    def __getitem__(self, key: str) -> float | None:
        """A figure by its key; None where it does not exist."""
        value: float | None = (self.__pydantic_extra__ or {}).get(key)
        return value

    def known(self, key: str) -> float:
        """A figure that exists."""
        value = self[key]
        assert value is not None, key
        return value

    def has(self, key: str) -> bool:
        """Whether the row says something about a figure, if only that there is none."""
        return key in (self.__pydantic_extra__ or {})

    @property
    def complete(self) -> bool:
        """Whether there should be figures."""
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


Share = float | None
"""In [0, 1]; None where the figure does not exist."""
_SHARE = Field(ge=0, le=1)


class Scores(Figured):
    """Scores of a data set."""

    needed: ClassVar[tuple[str, ...]] = tuple(figure.key for figure in FIGURES if figure.required)
    class_iou: dict[str, Share] = Field(default_factory=dict)
    images: int = 0
    confidence: dict[str, list[Share]] = Field(default_factory=dict)
    """Both ends of the 95 % interval, by figure."""
    no_confidence: str | None = None
    """Why there are no intervals."""

    def interval(self, key: str) -> tuple[float, float] | None:
        """Both ends of a figure's interval, where there is one."""
        ends = self.confidence.get(key, [])
        low, high = ends if len(ends) == 2 else (None, None)
        return None if low is None or high is None else (low, high)


class AttackRow(Scores):
    """What an attack did."""

    settings: AttackSettings
    error: str | None = None
    """Why it could not run; it has no figures then."""
    gap: dict[str, Share] = Field(default_factory=dict)
    """From clean to robust, by figure."""

    @property
    def complete(self) -> bool:  # noqa: D102
        return self.error is None


class PerImage(Scores):
    """Each image under the attack that leaves the fewest correct pixels."""

    needed: ClassVar[tuple[str, ...]] = ("pixel_acc", "miou")
    chosen: dict[str, int] = Field(default_factory=dict)
    """On how many images each attack is that."""


class Greedy(Figured):
    """One attack per image, chosen to lower the miou of all images together."""

    needed: ClassVar[tuple[str, ...]] = ("pixel_acc", "miou")
    chosen: dict[str, int] = Field(default_factory=dict)


class WorstCase(Part):
    """The worst of several attacks within one budget."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    per_image: PerImage | None = None
    greedy: Greedy | None = None

    def kinds(self) -> Iterator[tuple[Literal["per_image", "greedy"], PerImage | Greedy]]:
        """Those that there are."""
        if self.per_image is not None:
            yield "per_image", self.per_image
        if self.greedy is not None:
            yield "greedy", self.greedy


class Flag(Part):
    """One of the ten checks of a card."""

    number: int
    """1..10."""
    name: str
    verdict: FlagVerdict
    line: str
    """What was found and, where it is bad, what to do."""
    evidence: Any = None
    """The figures behind the verdict."""


class ModelFacts(Part):
    """The model that was evaluated."""

    network: str
    """Its class."""
    settings: dict[str, Any]
    """Of the network."""
    checkpoint: str | None
    """Name of the file; None: the weights came from none."""
    sha256: str | None
    weights: str
    """raw or averaged."""
    layout: str | None = None
    """Whose names the tensors of the file have, if not this package's."""
    window: dict[str, Any] | None = None
    trained_with: AttackSettings | Literal["unknown"] | None = UNKNOWN
    """The attacker in the training loop, None for clean images only."""


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
    """Of the scored samples, where they are not the whole split."""


class Protocol(Part):
    """How was measured."""

    seed: int
    precision: str
    suite: str | None = None
    norm: str | None = None
    eps: str | None = None
    """norm and eps: that all attacks with a budget share."""
    batch_sizes: list[int] = Field(default_factory=list)


class Threshold(Part):
    """Of a detector."""

    value: Share = _SHARE
    false_positive_rate: Share = _SHARE
    images: int


class Accepted(Part):
    """Images that a detector lets through."""

    images: int | None = None
    pixel_acc: Share = _SHARE
    miou: Share = _SHARE


class WithRejection(Part):
    """Scores in which rejected images count."""

    pixel_acc: Share = _SHARE


class DetectorRow(Part):
    """What a detector makes of the images of an attack, or of the clean ones."""

    error: str | None = None
    rejected: Share = Field(None, ge=0, le=1)
    auc: Share = Field(None, ge=0, le=1)
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
        """Of the clean images and of each attack."""
        return {"clean": self.clean, **self.attacks}

    @model_validator(mode="after")
    def _check_auc(self) -> DetectorFacts:
        for name, row in self.attacks.items():
            if row.error is None and "auc" not in row.model_fields_set:
                raise PydanticCustomError("missing_figure", "missing", {"key": f"attacks.{name}.auc"})
        return self


class Card(Part):
    """One evaluation."""

    format: Literal[2] = FORMAT
    model: ModelFacts
    data: DataFacts
    protocol: Protocol
    versions: dict[str, str] | list[dict[str, str]]
    """Of the packages; several where parts were measured with different ones."""
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
