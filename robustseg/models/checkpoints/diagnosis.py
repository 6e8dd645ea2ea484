"""Diagnosis of files whose tensors do not fit a model, from the tensor names, with a remedy."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from robustseg.models.adapters.torchvision import TorchvisionNetwork
from robustseg.models.backbone import Backbone
from robustseg.models.checkpoints.classifiers import classifier_weights
from robustseg.models.checkpoints.compare import Mismatch, shorten
from robustseg.models.checkpoints.layouts.layout import Layout, State, resnet_depth
from robustseg.models.checkpoints.read import PREFIXES
from robustseg.models.checkpoints.reading import Reading
from robustseg.models.checkpoints.rename import fit_to, recognise
from robustseg.models.errors import ModelError
from robustseg.models.model import SegmentationModel

_AUX = r"network\.(?:module\.)?(aux_head|aux_classifier|auxiliary_head)\."
_STAGE = r"(.*?(?:layer\d+|stages[._]\d+\.blocks|stages[._]\d+|blocks?|layers))\.(\d+)\."
_SCORES = r"(?:fc|head|head\.fc|classifier|classifier\.6|last_linear)\.weight\Z"
"""Last layer of image classifiers."""
_PARAMETRISED = r"(?:^|\.)parametrizations\.\w+\.|\w_orig\Z"
"""Names of weights that torch computes from other tensors."""
_DEEPEST = 3
"""Largest number of names in an unknown prefix."""


def explain(model: SegmentationModel, reading: Reading, layouts: Sequence[Layout]) -> str | None:
    """Explain why a file does not fit, with the remedy.

    Args:
        model: The configured model.
        reading: The file, fitted to the model.
        layouts: The known layouts.

    Returns:
        One clause, or None if the names give no explanation.
    """
    state, mismatch = reading.tensors, reading.mismatch
    if mismatch is None or (not mismatch.missing and not mismatch.unexpected):
        return None
    # counters that the file lacks come from the model
    found = {key: value for key, value in reading.named.items() if not key.endswith("num_batches_tracked")}
    return (
        _of_torchvision(model, state, layouts)
        or _of_other_depth(model, state, found, layouts)
        or _without_aux(mismatch)
        or _parametrised(reading)
        or _prefixed(model, reading, layouts)
        or _of_a_classifier(model, state)
        or _of_a_part(model, state, layouts)
    )


def _of_torchvision(model: SegmentationModel, state: Mapping[str, Tensor], layouts: Sequence[Layout]) -> str | None:
    known = recognise(state, layouts) if isinstance(model.network, TorchvisionNetwork) else None
    if known is None or not known[0].name.startswith("torchvision"):
        return None
    wanted = f"{known[0].network.__name__.lower()}_resnet{resnet_depth(known[1].state)}"
    own = getattr(model.network, "name", None)
    return None if wanted == own else f"the weights are those of torchvision's {wanted}, not {own}: set name: {wanted}"


def _of_other_depth(
    model: SegmentationModel, state: Mapping[str, Tensor], found: State, layouts: Sequence[Layout]
) -> str | None:
    expected, theirs = _blocks(model.state_dict()), _blocks(found)
    differing = [stage for stage, count in expected.items() if theirs.get(stage, count) != count]
    own_depth, depth = resnet_depth(model.state_dict()), resnet_depth(found)
    if not differing and (depth is None or own_depth is None or depth == own_depth):
        return None
    parts = []
    if differing:
        stage = max(differing, key=lambda each: abs(theirs[each] - expected[each]))
        parts.append(f"{theirs[stage]} blocks in {stage} where {expected[stage]} are expected")
    if depth is not None:
        over = f", and the network is over a ResNet-{own_depth}" if own_depth is not None else ""
        parts.append(f"a ResNet-{depth}{over}")
    known = recognise(state, layouts)
    remedy = "take the backbone of its run"
    if known is not None and depth is not None and isinstance(model.network, known[0].network):
        remedy = f"use --config network/{known[0].config_of(known[1].state)}"
    return f"{': '.join(parts)}; {remedy}"


def _blocks(keys: Iterable[str]) -> dict[str, int]:
    numbers: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        if match := re.match(_STAGE, key):
            numbers[match[1]].add(match[2])
    return {stage: len(found) for stage, found in numbers.items()}


def _without_aux(mismatch: Mismatch) -> str | None:
    for keys, others, has, setting in (
        (mismatch.missing, mismatch.unexpected, "no auxiliary head, and the network has one", "false"),
        (mismatch.unexpected, mismatch.missing, "an auxiliary head, and the network has none", "true"),
    ):
        heads = {match[1] if (match := re.match(_AUX, key)) else None for key in keys}
        if keys and not others and None not in heads:
            ours = heads == {"auxiliary_head"}  # transformers
            name = f"args: {{use_auxiliary_head: {setting}}}" if ours else f"aux_head: {setting}"
            return f"{mismatch}: it has {has}: set {name} in model.network.init_args"
    return None


def _parametrised(reading: Reading) -> str | None:
    """Name a parametrisation that cannot be undone without the code of the network."""
    names = [name for name in reading.tensors if re.search(_PARAMETRISED, name)]
    if not names:
        return None
    return (
        f"it holds parametrised weights ({shorten(names)}), as spectral_norm and pruning leave them: save the "
        "state dict after torch.nn.utils.parametrize.remove_parametrizations, or remove_spectral_norm or prune.remove"
    )


def _prefixed(model: SegmentationModel, reading: Reading, layouts: Sequence[Layout]) -> str | None:
    """Name the prefixes of the networks in a file that fit."""
    state = reading.tensors
    fitting: list[str] = []
    for depth in range(1, _DEEPEST + 1):
        prefixes = dict.fromkeys(".".join(key.split(".")[:depth]) + "." for key in state if key.count(".") >= depth)
        for prefix in list(prefixes)[:20]:
            known = all(f"{part}." in PREFIXES for part in prefix.split(".")[:-1])
            if known or prefix.startswith(tuple(fitting)):
                continue
            inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if len(inner) < len(state) and 2 * len(inner) < len(model.network.state_dict()):
                continue
            try:
                mismatch = fit_to(model, replace(reading, tensors=inner), layouts).mismatch
            except ModelError:
                continue
            if not mismatch:
                fitting.append(prefix)
    if not fitting:
        return None
    several = f"{len(fitting)} networks" if len(fitting) > 1 else "the network"
    return (
        f"it holds {several} under {' and '.join(fitting)}: save the tensors of one alone, as "
        f"{{key.removeprefix('{fitting[0]}'): value for key, value in state.items() if key.startswith('{fitting[0]}')}}"
    )


def _of_a_classifier(model: SegmentationModel, state: Mapping[str, Tensor]) -> str | None:
    try:
        inner = classifier_weights(state).state
    except ModelError:
        return None
    scores = [value for key, value in inner.items() if re.match(_SCORES, key) and value.dim() == 2]
    first = next((value for value in inner.values() if value.dim() == 4), None)  # the convolution on the images
    if len(scores) != 1 or first is None or first.shape[1] != 3 or any(_is_head(key) for key in inner):
        return None
    starts = isinstance(getattr(model.network, "backbone", None), Backbone)
    remedy = (
        "give it as model.network.init_args.weights, from which the backbone starts a training"
        if starts
        else "take the checkpoint of a segmentation network"
    )
    return f"it is a classifier of {len(scores[0])} classes of whole images, not of pixels: {remedy}"


def _of_a_part(model: SegmentationModel, state: Mapping[str, Tensor], layouts: Sequence[Layout]) -> str | None:
    """Name the part of another project's network, such as its encoder, that a file holds in place of the whole."""
    own = model.network.state_dict()
    for layout in layouts:
        if not isinstance(model.network, layout.network):
            continue
        for part in dict.fromkeys(mark.partition(r"\.")[0] for mark in layout.marks):
            try:
                # what layouts change beyond names is that of whole networks
                named = replace(layout, adapt=None).convert(
                    {f"{part}.{key}": value for key, value in state.items()}, model.network
                )
            except ModelError:
                continue
            if 2 * sum(key in own and own[key].shape == value.shape for key, value in named.items()) > len(named):
                return f"it holds only the {part} of a {layout.name}: take the file of the whole network"
    return None


def _is_head(key: str) -> bool:
    return re.match(r"(?:decode_head|decoder|aux|network\.)", key) is not None
