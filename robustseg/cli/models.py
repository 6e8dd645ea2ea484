"""``robustseg models`` and ``robustseg inspect``: the networks, and the content of weights files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustseg.cli.arguments import Arguments, check_there
from robustseg.shipped import find


def list_models(args: Sequence[str]) -> int:
    """List the networks, the inputs that they expect and the checkpoints that they load."""
    parser = Arguments("models", list_models.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="Show these in full, with their configuration.")
    options = parser.parse_args(args)
    from robustseg.cli.networks import print_networks

    print_networks(options.names)
    return 0


def inspect_checkpoint(args: Sequence[str]) -> int:
    """Describe a weights file and, with a network, the differences between its tensors and the network's."""
    parser = Arguments("inspect", inspect_checkpoint.__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="Checkpoints of any project.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--network", metavar="NAME", help="Compare with this one; robustseg models lists them.")
    which.add_argument(
        "--config", action="append", default=[], metavar="NAME", help="Compare with model.network of this; repeat."
    )
    parser.add_argument(
        "--num_classes", type=int, metavar="N", help="Classes of that network; by default those of the file."
    )
    options = parser.parse_args(args)
    for name in options.config:
        find(name)
    check_there(options.files, "name a checkpoint")
    from robustseg.cli.networks import print_files

    return 0 if print_files(options.files, options.network, options.config, options.num_classes) else 1
