"""``robustseg merge`` and ``robustseg leaderboard``: combination of existing results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustseg.cli.arguments import Arguments, check_there
from robustseg.terminal.text import write


def merge_shards(args: Sequence[str]) -> int:
    """Merge the folders of an evaluation's shards."""
    parser = Arguments("merge", merge_shards.__doc__)
    parser.add_argument("output", type=Path, metavar="NEW", help="New folder for all of them.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="SHARD", help="Folders that evaluate --shard wrote.")
    options = parser.parse_args(args)
    check_there(options.folders, "name the folder of an evaluation")
    from robustseg.evaluation.benchmark import merge

    merge(options.output, options.folders)
    write(f"merged into {options.output}; robustseg evaluate with --output {options.output} writes the results.")
    return 0


def leaderboard(args: Sequence[str]) -> int:
    """Rank evaluations of several models in one table."""
    parser = Arguments("leaderboard", leaderboard.__doc__)
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="EVALUATION",
        help="Folders of finished evaluations, or their card.json.",
    )
    parser.add_argument(
        "--group", action="store_true", help="One table per protocol, instead of refusing results that differ in it."
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="Write the tables as one HTML file.")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="Write them as Markdown; without any file they are printed."
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="Write them as one CSV file, with the intervals in columns."
    )
    parser.add_argument(
        "--latex", type=Path, metavar="FILE", help="Write them as LaTeX, for a paper; it needs booktabs."
    )
    options = parser.parse_args(args)
    check_there(options.folders, "name the folder of a finished evaluation")
    from robustseg.evaluation import report
    from robustseg.files import not_writable, write_text

    built = report.build_leaderboard(report.read_cards(options.folders), group=options.group)
    writers = {
        options.html: report.leaderboard_html,
        options.markdown: report.leaderboard_markdown,
        options.csv: report.leaderboard_csv,
        options.latex: report.leaderboard_latex,
    }
    writers.pop(None, None)
    for path, written in writers.items():
        try:
            write_text(written(built), path)
        except OSError as error:
            raise report.ReportError(f"{not_writable(path, error)}.") from error
    if not writers:
        write(report.leaderboard_markdown(built))
    return 0
