"""The study of detection: plain and adaptive attacks, and the detectors' AUC against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustseg.attacks import Attack, AttackError, Targeted, TargetMap
from robustseg.detectors import DetectorError, OnPatches, ScaleConsistency, SpatialConsistency, ThroughBlur
from robustseg.evaluation.attacking import CLEAN
from robustseg.evaluation.benchmark import Benchmark
from robustseg.evaluation.views import View
from robustseg.studies.detection.figures import detection_result, highest_entropy
from robustseg.studies.detection.plan import SCALE, SPATIAL, DetectorRow, Plan, Variant
from robustseg.studies.detection.rows import blurred_view, target_view
from robustseg.studies.detection.views import ConsistencyCurve, EntropyMaps, Parts, SuccessBehindBlur, TargetCounts
from robustseg.studies.errors import StudyError
from robustseg.studies.study import Answering, Measured, StudyAcrossModels, StudyResult, check_attacks
from robustseg.studies.sweep import check_steps, refuse_repeats


class Detection(StudyAcrossModels):
    """Detectors by spatial and scale consistency, tested on plain and adaptive attacks.

    Source: Xiao et al., ECCV 2018: AUC (its Table 1), number of attacked patches against number of compared pairs
    (Fig. 7), consistency over the steps of an attack (Fig. 6), self-entropy (Fig. 3), transfer of targeted images
    between models (Fig. 8). An adaptive attack is compared with the detector of its own σ or K in the table, and with
    all of them in the matrices. Benign images are the clean images of the evaluation.

    Args:
        attacks: The targeted attacks by name; DAG and Houdini in the paper.
        target_maps: The attacks' target maps by name; each attack with each map is a combination ``<attack>_<map>``.
        patch_size: Side in pixels of the detector's patches and of the attacked ones.
        displacement: [smallest, largest] displacement of a pair's second patch in pixels.
        k: Numbers K of compared pairs, a detector for each.
        random_patch_size: [smallest, largest] side in pixels, for one more detector with such patches and the largest
            ``k``.
        sigmas: Standard deviations of the blur in pixels; an empty list leaves scale consistency out.
        adaptive: Combinations with adaptive attacks; null for all, [] for none.
        attacked_k: Numbers of patches that adaptive attacks use; ``k`` by default.
        redrawn_k: The same for attacks that draw new patches at each step; they are not in the paper.
        both: Add attacks on the image with and without blur at once; they are not in the paper.
        curve_k: Number of pairs that are compared at the steps of an attack.
        curve_steps: The steps at which they are compared, from 1 on; an empty list leaves the curves out.
        entropy_images: Number of images with a drawn self-entropy, evenly spread over the scored ones.
        entropy_k: Number of votes per pixel.
        transfer: Combinations whose images all models are scored on; null for all, [] for none.
        detected_on: Names of the models with detectors, null for all; the others only take part in transfer.
        name: Name of the study's files.

    Raises:
        StudyError: A setting is out of range, repeated or unknown, or an attack cannot be wrapped.
    """

    def __init__(
        self,
        attacks: dict[str, Attack],
        target_maps: dict[str, TargetMap],
        patch_size: int = 512,
        displacement: tuple[int, int] = (32, 64),
        k: Sequence[int] = (1, 5, 10, 50),
        random_patch_size: tuple[int, int] | None = None,
        sigmas: Sequence[float] = (0.5, 3.0, 5.0),
        adaptive: list[str] | None = None,
        attacked_k: Sequence[int] | None = None,
        redrawn_k: Sequence[int] = (),
        both: bool = True,
        curve_k: int = 10,
        curve_steps: Sequence[int] = (1, 5, 10, 20, 50, 100, 200),
        entropy_images: int = 2,
        entropy_k: int = 20,
        transfer: list[str] | None = None,
        detected_on: list[str] | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        check_attacks(attacks)
        if not target_maps:
            raise StudyError("target_maps = {}: name at least one, such as pure: {class_path: PureClass}.")
        refuse_repeats("k", k)
        for values, key in ((sigmas, "sigmas"), (attacked_k, "attacked_k"), (redrawn_k, "redrawn_k")):
            if values:
                refuse_repeats(key, values)
        _check_counts(entropy_images, curve_k, entropy_k)
        self.k, self.sigmas, self.both = sorted(k), sorted(sigmas), both
        self.attacked_k = sorted(self.k if attacked_k is None else attacked_k)
        self.redrawn_k = sorted(redrawn_k)
        self.entropy_images, self.entropy_k = entropy_images, entropy_k
        try:
            self.pairs = SpatialConsistency(patch_size, self.k[-1], displacement)
            self.random_pairs = random_patch_size and SpatialConsistency(random_patch_size, self.k[-1], displacement)
            self.curve = SpatialConsistency(patch_size, curve_k, displacement)
            self.scale = {sigma: ScaleConsistency(sigma) for sigma in self.sigmas}
            SpatialConsistency(patch_size, self.k[0], displacement)
        except DetectorError as error:
            raise StudyError(str(error)) from None
        self.patch_size, self.target_maps = patch_size, dict(target_maps)
        pairs = [(a, t) for a in attacks for t in target_maps]
        _refuse_one_name([f"{a}_{t}" for a, t in pairs])
        combinations = {f"{a}_{t}": (a, t) for a, t in pairs}
        _check_chosen("adaptive", adaptive, list(combinations))
        _check_chosen("transfer", transfer, list(combinations))
        self._adaptive = list(combinations) if adaptive is None else adaptive
        variants = [
            variant
            for combination, (attack, target_map) in combinations.items()
            for variant in self._variants(combination, attacks[attack], target_maps[target_map])
        ]
        _refuse_one_name([variant.record for variant in variants])
        self.plan = Plan(
            variants,
            list(self._detectors()),
            list(combinations) if transfer is None else transfer,
            check_steps(curve_steps, "curve_steps") if curve_steps else [],
            f"curve of {_pairs_view(self.curve)} at {len(curve_steps)} steps to {max(curve_steps, default=0)}",
            f"entropy of {patch_size} x{entropy_k} on {entropy_images}",
            detected_on,
        )

    def _variants(self, combination: str, attack: Attack, target_map: TargetMap) -> Iterator[Variant]:
        """Yield the plain attack and the adaptive ones of a combination."""
        try:
            yield Variant(combination, combination, "plain", 0, Targeted(attack, target_map))
            if combination not in self._adaptive:
                return
            for sigma in self.sigmas:
                name = f"{combination} blur{sigma:g}"
                yield Variant(name, combination, "blurred", sigma, Targeted(ThroughBlur(attack, sigma), target_map))
                if self.both:
                    wrapped = ThroughBlur(attack, sigma, whole=True)
                    yield Variant(f"{name} both", combination, "both", sigma, Targeted(wrapped, target_map))
            for k in self.attacked_k:
                wrapped_k = Targeted(OnPatches(attack, self.patch_size, k), target_map)
                yield Variant(f"{combination} k{k}", combination, "patches", k, wrapped_k)
            for k in self.redrawn_k:
                wrapped_k = Targeted(OnPatches(attack, self.patch_size, k, redraw=True), target_map)
                yield Variant(f"{combination} k{k} redrawn", combination, "redrawn", k, wrapped_k)
        except (ValueError, DetectorError) as error:
            raise StudyError(f"attacks: {combination}: {error}") from None

    def _detectors(self) -> Iterator[DetectorRow]:
        for sigma in self.sigmas:
            yield DetectorRow(f"scale, σ = {sigma:g}", _blur_view(sigma), None, sigma, SCALE)
        for k in self.k:
            yield DetectorRow(f"spatial, K = {k}", _pairs_view(self.pairs), k, k, SPATIAL)
        if self.random_pairs is not None:
            low, high = self.random_pairs.sampler.sizes
            view = _pairs_view(self.random_pairs)
            yield DetectorRow(f"spatial, K = {self.k[-1]}, {low}–{high} px", view, None, self.k[-1], SPATIAL)

    def attacks(self) -> dict[str, Attack]:  # noqa: D102
        return {variant.record: variant.attack for variant in self.plan.variants}

    def attacks_on(self, source: str) -> dict[str, Attack]:  # noqa: D102
        if self.plan.is_detected_on(source):
            return self.attacks()
        return {variant.record: variant.attack for variant in self.plan.plain(self.plan.transferred)}

    def for_itself(self) -> list[str]:  # noqa: D102
        shown = [variant.record for variant in self.plan.plain(self.plan.transferred)]
        return [variant.record for variant in self.plan.variants if variant.record not in shown]

    def views(self, source: str, of: Benchmark, models: Sequence[Answering]) -> dict[str, View]:  # noqa: D102
        found: dict[str, View] = {}
        if len(models) > 1 and self.plan.transferred:
            shown = [variant.record for variant in self.plan.plain(self.plan.transferred)]
            how = (of.model.num_classes, of.data.ignore_index, shown, of.model.num_scored)
            found = {target_view(m.key): TargetCounts(m.key, *how) for m in models}
        if not self.plan.is_detected_on(source):
            return found
        seed, records = of.seed, self.plan.records
        for pairs in (self.pairs, self.random_pairs):
            if pairs is not None:
                found[_pairs_view(pairs)] = Parts(pairs, seed, [CLEAN, *records(*SPATIAL)])
        for sigma, detector in self.scale.items():
            found[_blur_view(sigma)] = Parts(detector, seed, [CLEAN, *records(*SCALE)])
            own = [v.record for v in self.plan.variants if v.kind in SCALE[1:] and v.level == sigma]
            found[blurred_view(sigma)] = SuccessBehindBlur(detector.blur, of.data.ignore_index, own)
        if self.plan.curve_steps:
            found[self.plan.curve_view] = ConsistencyCurve(self.curve, self.plan.curve_steps, seed, records(*SPATIAL))
        count = min(self.entropy_images, len(of.samples))
        if count:
            chosen = [of.samples[(2 * n + 1) * len(of.samples) // (2 * count)] for n in range(count)]
            found[self.plan.entropy_view] = EntropyMaps(
                chosen, self.patch_size, self.entropy_k, seed, [CLEAN, *records("plain")]
            )
        return found

    def check_sources(self, sources: Mapping[str, Benchmark]) -> None:  # noqa: D102
        unknown = [name for name in self.plan.detected_on or [] if name not in sources]
        if unknown:
            raise StudyError(f"detected_on names {unknown[0]!r}, but the models are: {', '.join(sources)}.")
        for source, of in sources.items():
            self._check_first_image(source, of)

    def _check_first_image(self, source: str, of: Benchmark) -> None:
        """Check the first image, so that the study does not fail hours later at its last attack."""
        sample = of.data.dataset(of.split)[of.indices[0]]
        try:
            if self.plan.is_detected_on(source):
                for detector in (self.pairs, self.random_pairs, self.curve, *self.scale.values()):
                    if detector is not None:
                        detector.check(*sample.image.shape[-2:])
            for name, target_map in self.target_maps.items():
                wanted = target_map(sample.target[None], ignore_index=of.data.ignore_index)
                highest = int(wanted.masked_fill(wanted == of.data.ignore_index, 0).max())
                if highest >= of.model.num_classes:
                    raise StudyError(
                        f"target_maps: {name} wants class {highest}, but the model has {of.model.num_classes} classes: "
                        f"give it one of 0 to {of.model.num_classes - 1}."
                    )
        except (AttackError, DetectorError) as error:
            raise StudyError(f"image {sample.id}: {error}") from None

    def across(self, sources: Sequence[Measured], class_names: Sequence[str]) -> StudyResult:  # noqa: D102
        highest = highest_entropy(self.entropy_k, len(class_names))
        return detection_result(self.name, self.plan, sources, class_names, highest, self._views_of_record())

    def _views_of_record(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the detectors and views, independent of the evaluated images."""
        pairs = {_pairs_view(each): each.describe() for each in (self.pairs, self.random_pairs) if each is not None}
        scale = {_blur_view(sigma): each.describe() for sigma, each in self.scale.items()}
        curve = {self.plan.curve_view: {"steps": list(self.plan.curve_steps), **self.curve.describe()}}
        votes = {"patch_size": self.patch_size, "k": self.entropy_k, "images": self.entropy_images}
        entropy = {self.plan.entropy_view: votes} if self.entropy_images else {}
        return pairs | scale | (curve if self.plan.curve_steps else {}) | entropy


def _check_counts(entropy_images: int, curve_k: int, entropy_k: int) -> None:
    if entropy_images < 0:
        raise StudyError(f"entropy_images = {entropy_images}: use 0 for none.")
    for count, key, of in ((curve_k, "curve_k", "pair of patches"), (entropy_k, "entropy_k", "vote of each pixel")):
        if count < 1:
            raise StudyError(f"{key} = {count}: use at least one {of}.")


def _refuse_one_name(names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise StudyError(f"two attacks would both be called {twice[0]!r}: rename one, or a target map.")


def _check_chosen(key: str, chosen: Sequence[str] | None, combinations: Sequence[str]) -> None:
    unknown = [each for each in chosen or [] if each not in combinations]
    if unknown:
        raise StudyError(f"{key} names {unknown[0]!r}, but there are: {', '.join(combinations)}.")
    if chosen:
        refuse_repeats(key, chosen)


def _pairs_view(detector: SpatialConsistency) -> str:
    """Return the name of a detector's view; with its settings, so that several studies can share a folder."""
    settings = detector.describe()
    size, displacement = (str(settings[key]).replace(", ", "-").strip("[]") for key in ("patch_size", "displacement"))
    return f"pairs of {size} by {displacement} x{detector.k}"


def _blur_view(sigma: float) -> str:
    return f"blur {sigma:g}"
