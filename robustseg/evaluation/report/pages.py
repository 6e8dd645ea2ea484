"""Templates into self-contained pages, and text into files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent


def render(template: str, **content: Any) -> str:
    """A page with its style inside.

    Everything in ``content`` is escaped, since names of classes and attacks come from users; what is markup already
    says so by its type.

    Args:
        template: File name beside this module.
        **content: What the template names.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=Markup(style), **content)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write ``text`` so that ``path`` holds either its old content or all of the new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        # Bytes: the same file on every system, without its line endings.
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
