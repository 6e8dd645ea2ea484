"""``robustseg models`` and ``robustseg inspect``: which networks there are, and what a file of weights is."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser

from robustseg.config.safety import limit_imports, refused_object
from robustseg.models import ModelError, Network
from robustseg.models.catalogue import Facts, catalogue, facts, find_variant
from robustseg.models.checkpoints.inspect import describe_file, describe_fit
from robustseg.models.checkpoints.read import read_weights
from robustseg.shipped import ConfigFileError, complete, find

_WIDTH = 100


def list_models(args: Sequence[str]) -> int:
    """Say which networks there are, what each expects and which checkpoints it loads."""
    parser = argparse.ArgumentParser("robustseg models", description=list_models.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="Show these in full, with their configuration.")
    options = parser.parse_args(args)
    if options.names:
        print("\n\n".join(_in_full(name) for name in options.names))
        return 0
    print(f"{'network':<32} {'class':<20} {'Mparams':>7} {'stride':>6} {'logits':>6}  images")
    for name, variant in catalogue().items():
        try:
            found = facts(variant)
        except ModelError as error:
            print(f"{name:<32} {variant.network:<20} {str(error).rpartition(': ')[2]}")
            continue
        print(f"{name:<32} {variant.network:<20} {_figures(found)}  {found.normalisation}")
        if found.loads:
            text = f"loads {', '.join(found.loads)}"
            print(textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    "))
    print()
    notes = (
        "Mparams: million parameters with 21 classes. stride: pixels per cell of the coarsest features; logits: of the "
        "logits, before they are resized. images: the normalisation that the network expects, which is part of the "
        "model. Each loads its own checkpoints and those of the projects listed. "
        "--config network/NAME takes one; robustseg models NAME shows it."
    )
    print(textwrap.fill(notes, _WIDTH))
    return 0


def _figures(found: Facts) -> str:
    stride = "-" if found.stride is None else f"1/{found.stride}"
    return f"{found.parameters / 1e6:>7.1f} {stride:>6} {f'1/{found.logits_stride}':>6}"


def _in_full(name: str) -> str:
    variant = find_variant(name)
    found = facts(variant)
    stride = "not known" if found.stride is None else f"1/{found.stride}"
    loads = ", ".join(found.loads) or "its own only"
    rows = (
        ("class", variant.network),
        ("parameters", f"{found.parameters / 1e6:.2f} million with 21 classes"),
        ("strides", f"features {stride}, logits 1/{found.logits_stride}"),
        ("images", found.normalisation),
        ("checkpoints", loads),
    )
    lines = [variant.name]
    for label, text in rows:
        lines += textwrap.wrap(text, _WIDTH, initial_indent=f"  {label:<12}", subsequent_indent=" " * 14)
    return "\n".join([*lines, "", f"# --config network/{variant.name}", variant.text.rstrip()])


def inspect_checkpoint(args: Sequence[str]) -> int:
    """Say what a file of weights is and, with a network, how its tensors differ from that network's."""
    parser = argparse.ArgumentParser("robustseg inspect", description=inspect_checkpoint.__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="Checkpoints of any project.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--network", metavar="NAME", help="Compare with this one; robustseg models lists them.")
    which.add_argument("--config", action="append", metavar="NAME", help="Compare with model.network of this; repeat.")
    parser.add_argument("--num_classes", type=int, help="Classes of that network; by default those of the file.")
    options = parser.parse_args(args)
    build: Callable[[int], Network] | None = None
    if options.network is not None:
        build = find_variant(options.network).build
    elif options.config:
        build = _configured(options.config)
    fits = True
    for index, file in enumerate(options.files):
        reading = read_weights(file)
        print("\n" * (index > 0) + describe_file(reading))
        if build is not None:
            text, fitting = describe_fit(reading, build, options.num_classes)
            print(text)
            fits = fits and fitting
    return 0 if fits else 1


def _configured(paths: Sequence[str]) -> Callable[[int], Network]:
    """What builds the network of configurations, of which the last that names one counts."""
    chosen: dict[str, Any] | None = None
    for path in paths:
        try:
            model = complete(find(path)).get("model")
        except ConfigFileError as error:
            raise ModelError(f"--config {error}") from error
        network = model.get("network") if isinstance(model, dict) else None
        chosen = {"class_path": network} if isinstance(network, str) else network or chosen
    if not isinstance(chosen, dict) or "class_path" not in chosen:
        raise ModelError(f"{', '.join(paths)}: no model.network with a class_path in it: add --config network/NAME.")
    limit_imports([])
    return lambda num_classes: _build(chosen, num_classes)


def _build(chosen: dict[str, Any], num_classes: int) -> Network:
    init_args = {**(chosen.get("init_args") or {}), "num_classes": num_classes}
    for key in ("pretrained", "weights"):  # nothing is loaded to look at names and shapes
        init_args.pop(key, None)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Network, "network", required=True)
    try:
        config = parser.parse_object({"network": {**chosen, "init_args": init_args}})
    except ArgumentError as error:
        raise ModelError(f"model.network: {' '.join(str(error).split())[:300]}") from error
    if refusal := refused_object(config, []):
        raise ModelError(refusal)
    with torch.device("meta"):
        network: Network = parser.instantiate_classes(config).network
    return network
