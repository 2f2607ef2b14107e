"""Views of a report of ``bncli inspect-stats``, and of the comparison of two.

::

    text           for the terminal, of layers, channels, live, history and findings; comparison: of two checkpoints
    document       as JSON
    csv_table      as CSV
    html/          as one page with plots
    quantities     the numbers that all views show; pictures: characters that draw them; names: their common prefix
"""

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
