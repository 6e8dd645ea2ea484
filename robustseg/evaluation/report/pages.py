"""Self-contained pages from templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent


def render(template: str, **content: Any) -> str:
    """Render a template as a page with its style inside.

    Text in ``content`` is escaped, since names of classes and attacks come from users, except for ``Markup`` objects.

    Args:
        template: Name of the template's file beside this module.
        **content: Values of the template's variables.
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
