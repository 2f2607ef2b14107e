"""No text from a file drives the terminal, a browser or a spreadsheet, whatever prints it."""

import csv
import html
import io
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.reports import make_history, make_layer, make_live, make_report

from bncli.checkpoint.integrity import FileReport, VerifyReport
from bncli.cli import display, render
from bncli.cli.console import drawn
from bncli.cli.render.evaluate import EvalReport
from bncli.cli.render.predict import PredictReport
from bncli.cli.untrusted import csv_cell, inert, inert_json, visible, visible_lines
from bncli.errors import BncliError, BncliWarning
from bncli.folding import FoldReport, NormReport, Verification
from bncli.folding.prune.prune import PrunedLayers, PruneReport
from bncli.inspection.comparison import compare
from bncli.inspection.findings import Finding
from bncli.jobs.export import ExportReport
from bncli.jobs.fold_report import FoldResult, Latency
from bncli.jobs.predict import ClassProbability, Prediction, Predictions
from bncli.measure.score import ClassAccuracy, EvalResult

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\nerror: all is lost\r\x9b31m\x7f[red]\\[/]\ud800\u2028=1+1"
# A line that is wrapped could begin with any word of a text.
WIDE = "2000"
TEXTS = st.text(st.characters(), max_size=30)
LINE = re.compile(r"error: all is lost")


@pytest.fixture(scope="module", autouse=True)
def wide():
    """A terminal on which no line is wrapped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", WIDE)
        yield


def is_inert(text):
    return all(line.isprintable() for line in text.split("\n"))


@given(TEXTS)
@example(HOSTILE)
def test_a_visible_text_is_printable_and_one_line(text):
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)
    assert text != visible(text) or text.isprintable()
    assert is_inert(inert(text))
    assert is_inert(visible_lines(text))
    assert all(line.startswith("  ") for line in visible_lines(text).split("\n")[1:])


def test_what_is_harmless_stays():
    assert visible("Block_1/β 层") == "Block_1/β 层"
    assert visible("a\x1b[31mb\nc\u202ed\ud800") == "a\\x1b[31mb\\nc\\u202ed\\ud800"
    assert inert("a\nb\x1b") == "a\nb\\x1b"


@given(st.recursive(TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)))
def test_a_json_document_says_the_same_in_printable_characters(value):
    for only_ascii in (True, False):
        text = inert_json(json.dumps(value, ensure_ascii=only_ascii))
        assert text.isprintable()
        assert json.loads(text) == value


@given(TEXTS | st.floats() | st.integers() | st.none() | st.booleans())
@example("=cmd|'/C calc'!A0")
@example("@SUM(A1)")
@example("\t=1")
@example("-1")
def test_no_text_in_a_cell_is_a_formula(value):
    cell = csv_cell(value)
    if isinstance(value, str):
        assert str(cell).isprintable()
        assert not str(cell).startswith(("=", "+", "-", "@", "\t", "\r"))
    else:
        assert cell is value


def results(name):
    """Every kind of result, with the text wherever one from a file can be."""
    path = Path("/tmp") / name.replace("\0", "")
    layers = [make_layer(f"{name}{k}", mean={0: np.nan}) for k in range(2)]
    finding = Finding(name, "error", layers[0].name, (1,), name, name)
    report = make_report(layers, source=name, notes=(name,))
    report = replace(report, data=make_live(report, gaps=(0.1, 0.9)), findings=(*report.findings, finding))
    report = replace(report, history=make_history(report))
    bare = replace(report, layers=(), arrays=(), findings=(), data=None, history=())
    other = make_report([make_layer(f"{name}1"), make_layer(f"{name}x")], source=name)
    yield render.stats_text(report)
    yield render.stats_text(report, everything=True, by_channel=True)
    yield render.stats_text(bare)
    yield render.comparison_text(compare(report, other))
    rows = tuple(ClassAccuracy(f"{name}{k}", 1, 1.0) for k in range(12))
    for count in (3, 12):
        confusion = np.ones((count, count), int)
        scores = EvalResult(count, 0.1, 1.0, 1.0, rows[:count], confusion, np.zeros(count, np.int32))
        yield render.eval_text(EvalReport(path, 3, "test", "running", "none", name, scores))
    classes = (ClassProbability(name, 0.75), ClassProbability(f"x{name}", 0.25))
    yield render.predict_text(PredictReport(path, Predictions((Prediction(path, classes),), ())))
    norms = (
        NormReport(name, "folded", "backward", (name,), None, name),
        NormReport(f"{name}2", "kept", None, (), name, None),
    )
    proof = Verification(3, 0.0, 0.0, 1.0, 1e-4, passed=False, status="not proved", note=name)
    pruned = PruneReport((PrunedLayers((name, f"x{name}"), 4, (1,), 1, 0, 0, 1, name),), (8, 6))
    exported = (ExportReport("onnx", "model.onnx", 3, proof),)
    yield render.fold_text(
        FoldResult(
            path, 3, path, FoldReport(norms), proof, name, Latency(1.0, 1.0), 0.1, exported, pruned, notes=(name,)
        )
    )
    yield render.verify_text(VerifyReport(path, (FileReport(name, 1, 3, name, "sha256"),), 3))


@settings(max_examples=15, deadline=None)
@given(TEXTS)
@example(HOSTILE)
def test_no_result_drives_the_terminal(name):
    for result in results(name):
        text = drawn(result)
        assert is_inert(text)
        assert not [line for line in text.split("\n") if LINE.match(line)]


@settings(max_examples=15, deadline=None)
@given(TEXTS)
@example(HOSTILE)
def test_no_report_drives_a_browser_or_a_spreadsheet(name):
    layers = [make_layer(f"{name}{k}", mean={0: np.nan}) for k in range(2)]
    report = make_report(layers, source=name, notes=(name,))
    page = render.stats_html(report)
    assert is_inert(html.unescape(page))
    for text in (render.stats_csv(report), render.stats_csv(report, by_channel=True)):
        header, *rows = csv.reader(io.StringIO(text))
        assert len({len(row) for row in (header, *rows)}) == 1
        for row in rows:
            assert row[0] == csv_cell(report.layers[0].name) or row[0] == csv_cell(report.layers[1].name)
            assert not row[0].startswith(("=", "+", "-", "@"))
            assert all(float(cell) == float(cell) or cell == "nan" for cell in row[2:4])


MESSAGES = {
    "an error": lambda text: display.show_error(BncliError(text, remedy=text)),
    "an internal error": lambda text: display.show_error(ValueError(text)),
    "a path": lambda text: display.show_error(FileNotFoundError(2, "No such file", f"/tmp/{text}")),
    "a warning": lambda text: display.warn((text,), quiet=False),
    "a note": lambda text: display.note(visible(text), quiet=False),
}


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("text", [HOSTILE, "\x1b[31m", "\u202e", "a\nremedy: run me"])
def test_no_message_drives_the_terminal_or_fakes_another(kind, text, capsys):
    MESSAGES[kind](text)
    printed = capsys.readouterr().err
    assert is_inert(printed)
    assert not re.search(r"^(error: all is lost|remedy: run me)", printed, re.MULTILINE)


def test_a_warning_raised_by_the_library_is_shown_the_same(capsys):
    with display.shown_warnings(quiet=False):
        warnings.warn(HOSTILE, BncliWarning, stacklevel=1)
    assert is_inert(capsys.readouterr().err)
