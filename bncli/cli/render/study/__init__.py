"""The result of ``bncli study``: the JSON document, the text, and the page."""

from bncli.cli.render.study.document import experiments_json, study_json
from bncli.cli.render.study.page import study_page
from bncli.cli.render.study.text import experiments_text, study_progress, study_text

__all__ = ["experiments_json", "experiments_text", "study_json", "study_page", "study_progress", "study_text"]
