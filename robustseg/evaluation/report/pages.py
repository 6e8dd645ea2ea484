"""Templates into self-contained pages."""

from __future__ import annotations

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
