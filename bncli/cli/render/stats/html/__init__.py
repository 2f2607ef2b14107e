"""The report as one HTML page.

::

    page           the whole document, of
    findings       the findings and notes
    on_data        the measurements on data
    table          the table of layers
    cards          each layer with its plots
    history        the layers over the epochs
    parts          pieces that several sections share
"""

from bncli.cli.render.stats.html.page import stats_html

__all__ = ["stats_html"]
