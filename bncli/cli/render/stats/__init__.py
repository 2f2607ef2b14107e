"""What ``bncli inspect-stats`` shows: ``text`` for the terminal, ``document`` as JSON, ``csv_table``, ``html``."""

from bncli.cli.render.stats.comparison import comparison_text
from bncli.cli.render.stats.csv_table import comparison_csv, stats_csv
from bncli.cli.render.stats.document import comparison_json, stats_json
from bncli.cli.render.stats.html import stats_html
from bncli.cli.render.stats.text import stats_text

__all__ = [
    "comparison_csv",
    "comparison_json",
    "comparison_text",
    "stats_csv",
    "stats_html",
    "stats_json",
    "stats_text",
]
