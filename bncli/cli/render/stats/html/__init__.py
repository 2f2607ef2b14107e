"""The report as one HTML file: ``page`` of ``sections`` of ``markup``, with plots from ``svg``."""

from bncli.cli.render.stats.html.page import stats_html

__all__ = ["stats_html"]
