"""Results as text and as JSON documents (``schema`` carries the version; fields are added, never renamed).

One module per command, each with a pair of pure functions, ``*_json`` and ``*_text``; ``emit`` prints one of them.
``tables`` and ``words`` are shared by all.
"""

from bncli.cli.render.bench import bench_json, bench_text
from bncli.cli.render.datasets import (
    Fetched,
    datasets_json,
    datasets_text,
    fetched_json,
    packed_json,
    packed_text,
)
from bncli.cli.render.doctor import DoctorReport, doctor_json, doctor_text
from bncli.cli.render.emit import emit, emit_json
from bncli.cli.render.evaluate import EvalReport, eval_json, eval_text
from bncli.cli.render.fold import fold_json, fold_text
from bncli.cli.render.lr_find import lr_find_json, lr_find_page, lr_find_svg, lr_find_text
from bncli.cli.render.predict import PredictReport, predict_json, predict_text
from bncli.cli.render.recalibrate import recalibrate_json, recalibrate_text
from bncli.cli.render.report import ReportResult, comparison_html, report_html, report_json, report_text
from bncli.cli.render.stats import (
    comparison_csv,
    comparison_json,
    comparison_text,
    stats_csv,
    stats_html,
    stats_json,
    stats_text,
)
from bncli.cli.render.study import (
    experiments_json,
    experiments_text,
    study_json,
    study_page,
    study_progress,
    study_text,
)
from bncli.cli.render.sweep import sweep_json, sweep_page, sweep_text
from bncli.cli.render.train import origin_lines, run_lines, train_json, train_text
from bncli.cli.render.verify import verify_json, verify_text
from bncli.cli.render.weights import convert_json, convert_text

__all__ = [
    "DoctorReport",
    "EvalReport",
    "Fetched",
    "PredictReport",
    "ReportResult",
    "bench_json",
    "bench_text",
    "comparison_csv",
    "comparison_html",
    "comparison_json",
    "comparison_text",
    "convert_json",
    "convert_text",
    "datasets_json",
    "datasets_text",
    "doctor_json",
    "doctor_text",
    "emit",
    "emit_json",
    "eval_json",
    "eval_text",
    "experiments_json",
    "experiments_text",
    "fetched_json",
    "fold_json",
    "fold_text",
    "lr_find_json",
    "lr_find_page",
    "lr_find_svg",
    "lr_find_text",
    "origin_lines",
    "packed_json",
    "packed_text",
    "predict_json",
    "predict_text",
    "recalibrate_json",
    "recalibrate_text",
    "report_html",
    "report_json",
    "report_text",
    "run_lines",
    "stats_csv",
    "stats_html",
    "stats_json",
    "stats_text",
    "study_json",
    "study_page",
    "study_progress",
    "study_text",
    "sweep_json",
    "sweep_page",
    "sweep_text",
    "train_json",
    "train_text",
    "verify_json",
    "verify_text",
]
