"""The report as one HTML file: ``page`` of ``sections``, ``table`` and ``cards``, of ``markup`` and ``svg`` plots."""

from bncli.cli.render.stats.html.page import stats_html

__all__ = ["stats_html"]
