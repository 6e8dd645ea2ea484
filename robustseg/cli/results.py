"""Commands that need neither a model nor data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from robustseg.data.catalogue import datasets, describe, find_dataset
from robustseg.evaluation.benchmark import merge
from robustseg.evaluation.report import (
    ReportError,
    build_leaderboard,
    leaderboard_markdown,
    read_cards,
    write_leaderboard,
    write_leaderboard_markdown,
)


def merge_shards(args: Sequence[str]) -> int:
    """Bring the folders of an evaluation's shards together."""
    parser = argparse.ArgumentParser("robustseg merge", description=merge_shards.__doc__)
    parser.add_argument("output", type=Path, help="New folder for all of them.")
    parser.add_argument("folders", type=Path, nargs="+", help="Folders that evaluate --shard wrote.")
    options = parser.parse_args(args)
    merge(options.output, options.folders)
    print(f"merged into {options.output}; robustseg evaluate with --output {options.output} writes the results.")
    return 0


def leaderboard(args: Sequence[str]) -> int:
    """Rank evaluations of several models in one table."""
    parser = argparse.ArgumentParser("robustseg leaderboard", description=leaderboard.__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="Folders of finished evaluations, or their card.json.")
    parser.add_argument(
        "--group", action="store_true", help="One table per protocol, instead of refusing results that differ in it."
    )
    parser.add_argument("--html", type=Path, help="Write the tables as one HTML file.")
    parser.add_argument("--markdown", type=Path, help="Write them as Markdown; without either they are printed.")
    options = parser.parse_args(args)
    built = build_leaderboard(read_cards(options.folders), group=options.group)
    try:
        if options.html is not None:
            write_leaderboard(built, options.html)
        if options.markdown is not None:
            write_leaderboard_markdown(built, options.markdown)
    except OSError as error:
        raise ReportError(f"{error.filename}: cannot be written ({error.strerror or error}).") from error
    if options.html is None and options.markdown is None:
        print(leaderboard_markdown(built))
    return 0


def list_datasets(args: Sequence[str]) -> int:
    """Say which data sets there are, how their files should lie and where to get them."""
    parser = argparse.ArgumentParser("robustseg datasets", description=list_datasets.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="Show these in full, with their classes.")
    options = parser.parse_args(args)
    if options.names:
        texts = [describe(find_dataset(name), full=True) for name in options.names]
    else:
        texts = [describe(row) for row in datasets()]
        texts.append("robustseg datasets NAME names the classes; data.class_path takes the names above.")
    print("\n\n".join(texts))
    return 0
