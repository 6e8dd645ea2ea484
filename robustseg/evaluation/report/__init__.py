"""Reports for people: one evaluation as a page or as Markdown, and several of them in a leaderboard.

It is not imported with ``robustseg.evaluation``, since only drawing needs matplotlib.
"""

from robustseg.evaluation.card_file import read_card, read_cards
from robustseg.evaluation.errors import ReportError
from robustseg.evaluation.report.leaderboard import (
    Leaderboard,
    build_leaderboard,
    leaderboard_csv,
    leaderboard_html,
    leaderboard_latex,
    leaderboard_markdown,
)
from robustseg.evaluation.report.markdown import report_markdown, write_markdown
from robustseg.evaluation.report.page import report_html, write_report
from robustseg.evaluation.report.pictures import PanelPicture
from robustseg.evaluation.report.plots import Curve

__all__ = [
    "Curve",
    "Leaderboard",
    "PanelPicture",
    "ReportError",
    "build_leaderboard",
    "leaderboard_csv",
    "leaderboard_html",
    "leaderboard_latex",
    "leaderboard_markdown",
    "read_card",
    "read_cards",
    "report_html",
    "report_markdown",
    "write_markdown",
    "write_report",
]
