"""``robustseg datasets check``: the survey of a folder of images and masks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from robustseg.cli.arguments import Arguments
from robustseg.data.errors import DataError
from robustseg.data.survey.contents import contents_of
from robustseg.data.survey.layout import find_layout
from robustseg.data.survey.picture import draw_pairs
from robustseg.data.survey.proposal import propose, settings
from robustseg.data.survey.report import problems_of, report
from robustseg.terminal.text import write


def check_folder(args: Sequence[str]) -> int:
    """Say what a folder of images and masks holds, how it may be read, and what is wrong with it."""
    parser = Arguments("datasets check", check_folder.__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="Folder of images and masks, in any usual layout.")
    parser.add_argument("--write", type=Path, metavar="PATH", help="Write the proposed class table to this new file.")
    parser.add_argument("--picture", type=Path, metavar="PATH", help="Draw eight pairs into this new PNG file.")
    parser.add_argument("--most", type=int, default=200, help="Most pairs to read; 0 for all, 200 by default.")
    options = parser.parse_args(args)
    for path in filter(None, (options.write, options.picture)):
        if path.exists():
            raise DataError(f"{path} exists, and nothing is overwritten: name a new file.")
    layout = find_layout(options.folder.expanduser())
    found = contents_of(layout.pairs, options.most or len(layout.pairs))
    proposal = propose(found)
    write(report(layout, found, proposal))
    if proposal is not None:
        name = options.write or "classes.yaml"
        write(f"\nA class table to start from ({'written to ' * bool(options.write)}{name}):\n\n{proposal.table()}")
        lines = " \\\n    ".join(settings(layout, proposal, str(name)))
        write(f"Read it with --config data/folder_pairs \\\n    {lines}")
    if options.write and proposal is not None:
        _new(options.write, proposal.table().encode())
    if options.picture:
        content = io.BytesIO()
        draw_pairs(layout.pairs, proposal).save(content, format="PNG")
        _new(options.picture, content.getvalue())
        write(f"\nEight pairs are drawn in {options.picture}.")
    return 1 if problems_of(layout, found) else 0


def _new(path: Path, content: bytes) -> None:
    """Write a file that must not exist.

    Raises:
        DataError: It exists or cannot be written.
    """
    try:
        with path.open("xb") as file:
            try:
                file.write(content)
                file.flush()
            except OSError:
                path.unlink()
                raise
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): name another file.") from error
