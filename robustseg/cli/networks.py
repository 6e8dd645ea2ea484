"""Output of ``robustseg models`` and ``robustseg inspect``: networks, and the fit of weights files."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from robustseg.models import ModelError, Network
from robustseg.models.catalogue import Facts, catalogue, facts, find_variant
from robustseg.models.checkpoints.inspect import describe_file, describe_fit
from robustseg.models.checkpoints.read import read_weights
from robustseg.shipped import complete, find
from robustseg.terminal.text import write

_WIDTH = 100


def print_networks(names: Sequence[str]) -> None:
    """Print the networks of these names in full, or a table of all without any name."""
    if names:
        write("\n\n".join(_in_full(name) for name in names))
        return
    write(f"{'network':<32} {'class':<20} {'Mparams':>7} {'stride':>6} {'logits':>6}  images")
    for name, variant in catalogue().items():
        try:
            found = facts(variant)
        except ModelError as error:
            write(f"{name:<32} {variant.network:<20} {str(error).rpartition(': ')[2]}")
            continue
        write(f"{name:<32} {variant.network:<20} {_figures(found)}  {found.normalisation}")
        if found.loads:
            text = f"loads {', '.join(found.loads)}"
            write(textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    "))
    write("")
    notes = (
        "Mparams: million parameters with 21 classes. stride: pixels per cell of the coarsest features; logits: of the "
        "logits, before they are resized. images: the normalisation that the network expects, which is part of the "
        "model. Each loads its own checkpoints and those of the projects listed. "
        "--config network/NAME takes one; robustseg models NAME shows it."
    )
    write(textwrap.fill(notes, _WIDTH))


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


def print_files(files: Sequence[Path], network: str | None, configs: Sequence[str], num_classes: int | None) -> bool:
    """Print descriptions of weights files, and their fit to a network.

    Args:
        files: Checkpoints of any project.
        network: Name of a network to compare with.
        configs: Configurations of the network to compare with, if there is no name.
        num_classes: Number of classes of that network; None for the file's.

    Returns:
        True if all files fit, or if there is no network.
    """
    build: Callable[[int], Network] | None = None
    if network is not None:
        build = find_variant(network).build
    elif configs:
        build = _configured(configs)
    fits = True
    for index, file in enumerate(files):
        reading = read_weights(file)
        write("\n" * (index > 0) + describe_file(reading))
        if build is not None:
            text, fitting = describe_fit(reading, build, num_classes)
            write(text)
            fits = fits and fitting
    return fits


def _configured(paths: Sequence[str]) -> Callable[[int], Network]:
    """Return a builder of the network in the configurations; the last one with a network counts."""
    chosen: dict[str, Any] | None = None
    for path in paths:
        model = complete(find(path)).get("model")
        network = model.get("network") if isinstance(model, dict) else None
        chosen = {"class_path": network} if isinstance(network, str) else network or chosen
    if not isinstance(chosen, dict) or "class_path" not in chosen:
        raise ModelError(f"{', '.join(paths)}: no model.network with a class_path in it: add --config network/NAME.")
    # here, since it imports Lightning, which neither the table nor a named network needs
    from robustseg.config.safety import limit_imports

    limit_imports([])
    return lambda num_classes: _build(chosen, num_classes)


def _build(chosen: dict[str, Any], num_classes: int) -> Network:
    from jsonargparse import ArgumentError, ArgumentParser

    from robustseg.config.safety import refused_object

    init_args = {**(chosen.get("init_args") or {}), "num_classes": num_classes}
    for key in ("pretrained", "weights"):  # names and shapes need no weights
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
