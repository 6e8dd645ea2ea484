"""``robustseg datasets``: the data sets with their layouts and sources."""

from __future__ import annotations

from collections.abc import Sequence

from robustseg.cli.arguments import Arguments
from robustseg.data.catalogue import describe, find_dataset
from robustseg.data.facts import DATASETS
from robustseg.terminal.text import write


def list_datasets(args: Sequence[str]) -> int:
    """List the data sets, the layout of their files and their sources."""
    parser = Arguments("datasets", list_datasets.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="Show these in full, with their classes.")
    options = parser.parse_args(args)
    if options.names:
        texts = [describe(find_dataset(name), full=True) for name in options.names]
    else:
        texts = [describe(facts) for facts in DATASETS]
        texts.append("robustseg datasets NAME names the classes; data.class_path takes the names above.")
    write("\n\n".join(texts))
    return 0
