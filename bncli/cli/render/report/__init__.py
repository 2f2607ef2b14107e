"""Views of a report of ``bncli report``: of one run, or of several side by side.

::

    text           for the terminal
    document       as JSON
    page           one run as a page, of
    curves           loss, accuracy and learning rate over the epochs
    mistakes         confusion matrix, confused pairs, worst examples
    record           settings, versions, hashes; the fold
    comparison     several runs as a page, with common scales
"""

from bncli.cli.render.report.comparison import comparison_html
from bncli.cli.render.report.document import report_json
from bncli.cli.render.report.page import report_html
from bncli.cli.render.report.text import ReportResult, report_text

__all__ = ["ReportResult", "comparison_html", "report_html", "report_json", "report_text"]
