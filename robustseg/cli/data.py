"""``robustseg datasets``: the data sets with their layouts and sources, and the survey of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from robustseg.cli.arguments import Arguments
from robustseg.data.catalogue import describe, find_dataset
from robustseg.data.facts import DATASETS
from robustseg.terminal.text import write


def list_datasets(args: Sequence[str]) -> int:
    """List the data sets, the layout of their files and their sources; check DIR says what a folder holds."""
    if args[:1] == ["check"]:
        return int(import_module("robustseg.cli.survey").check_folder(args[1:]))
    parser = Arguments("datasets", list_datasets.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="Show these in full, with their classes.")
    options = parser.parse_args(args)
    if options.names:
        texts = [describe(find_dataset(name), full=True) for name in options.names]
    else:
        texts = [describe(facts) for facts in DATASETS]
        texts.append(
            "robustseg datasets NAME names the classes; data.class_path takes the names above.\n"
            "robustseg datasets check DIR says what a folder of your own holds, and writes its class table."
        )
    write("\n\n".join(texts))
    return 0
