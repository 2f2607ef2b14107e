"""``bncli report`` and ``bncli train --report``: one page that loads nothing and says what was scored."""

import json
import shutil
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from support.dataset_writers import write_image_folder
from support.pages import Page
from support.reports import make_history, make_layer, make_report

from bncli import checkpoint
from bncli.checkpoint import load
from bncli.cli.render import comparison_html, report_html
from bncli.jobs.report import differences, report_run
from cli.conftest import TINY, document, invoke, succeed

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x1b]"


@pytest.fixture(scope="module")
def page(ckpt, tmp_path_factory):
    """The page of the run on digits, and what the command printed."""
    out = tmp_path_factory.mktemp("report") / "page.html"
    printed = document("report", ckpt, "--out", out, "--quiet")
    return Page(out.read_text(encoding="utf-8")), printed


@pytest.fixture(scope="module")
def run(trained, dataset):
    return report_run(load(trained.out), dataset)


def assert_loads_nothing(page):
    for tag, attributes in page.elements:
        assert not {"srcset", "action", "data", "style"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:image/png;base64,") or tag != "img"
        assert tag == "img" or "src" not in attributes
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object", "base", "form", "script"})
    assert "url(" not in page.text("style")
    assert "@import" not in page.text("style")
    targets = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    assert {attributes["href"] for attributes in page.named("a")} <= targets
    (policy,) = (meta["content"] for meta in page.named("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert "script-src 'none'" in policy
    assert f"'sha256-{b64encode(sha256(page.text('style').encode()).digest()).decode()}'" in policy


def test_the_page_loads_nothing_and_has_every_part(page):
    found, printed = page
    assert_loads_nothing(found)
    anchors = {attributes["id"] for attributes in found.named("section")}
    assert anchors >= {"curves", "confusion", "worst", "findings", "each", "settings", "versions"}
    charts = [svg["aria-label"] for svg in found.named("svg") if svg.get("class") == "chart"]
    assert [label.split(" of ")[0] for label in charts] == ["Loss", "Accuracy", "Learning rate"]
    (run,) = printed["runs"]
    assert len(found.named("img")) >= len(run["scored"]["worst"])
    assert all(digest in found.words for digest in run["sha256"].values())
    assert "running mean over" in " ".join(svg["aria-label"] or "" for svg in found.named("svg") if "aria-label" in svg)


@pytest.mark.sample(1)
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_scores_are_those_of_eval_and_the_split_is_named(ckpt, tmp_path, split):
    out = tmp_path / "page.html"
    printed = document("report", ckpt, "--out", out, "--split", split, "--quiet")
    scored = printed["runs"][0]["scored"]
    evaluated = document("eval", ckpt, "--split", split)
    for name in ("confusion", "num_examples", "accuracy", "predictions_sha256", "top5_accuracy"):
        assert scored[name] == evaluated[name]
    assert scored["loss"] == pytest.approx(evaluated["loss"], rel=1e-4)
    assert scored["wrong"] == sum(n for i, row in enumerate(scored["confusion"]) for j, n in enumerate(row) if i != j)
    words = Page(out.read_text(encoding="utf-8")).words
    assert {"val": "chose the best epoch", "test": "No test image was used"}[split] in words
    assert {"val": "validation images", "test": "test images"}[split] in words


def test_a_page_is_never_overwritten_silently(ckpt, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("mine")
    refused = invoke("report", ckpt, "--out", out, "--quiet")
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert out.read_text() == "mine"
    succeed("report", ckpt, "--out", out, "--overwrite", "--quiet")
    assert out.read_text().startswith("<!doctype html>")


def test_by_default_the_page_lies_in_the_checkpoint(ckpt, tmp_path):
    copy = shutil.copytree(ckpt, tmp_path / "ckpt")
    assert "written to" in succeed("report", copy, "--quiet")
    assert (copy / "report.html").is_file()
    assert invoke("verify", copy).exit_code == 0


def test_train_report_writes_the_page_and_a_resumed_run_replaces_it(tmp_path):
    out = tmp_path / "ckpt"
    succeed("train", "--epochs", 1, "--out", out, "--report", *TINY)
    first = Page((out / "report.html").read_text(encoding="utf-8"))
    assert "test images" in first.words
    succeed("train", "--resume", "--epochs", 2, "--out", out, "--report", "--quiet")
    assert "2 epochs in" in Page((out / "report.html").read_text(encoding="utf-8")).words
    assert succeed("train", "--epochs", 1, "--out", out, "--overwrite", *TINY) is not None
    assert not (out / "report.html").exists()


def test_a_folded_checkpoint_has_a_report_of_its_fold(folded, tmp_path):
    out = tmp_path / "page.html"
    printed = document("report", folded, "--out", out, "--quiet")
    page = Page(out.read_text(encoding="utf-8"))
    assert_loads_nothing(page)
    assert "No epoch is recorded" in page.words
    assert "relative error of a logit" in page.words
    assert "BatchNorm_0" in page.words
    assert printed["runs"][0]["history"] == []
    assert printed["runs"][0]["scored"]["accuracy"] > 0.2


def test_without_its_data_a_run_has_a_report_that_says_so(trained, tmp_path):
    out = tmp_path / "page.html"
    result = invoke("report", trained.out, "--out", out)
    assert result.exit_code == 0, result.output
    assert "nothing was scored" in result.stdout
    assert "warning" in result.stderr
    page = Page(out.read_text(encoding="utf-8"))
    assert "Nothing was scored" in page.words
    assert page.named("img") == []
    assert_loads_nothing(page)


def test_data_that_are_named_and_missing_are_an_error(ckpt, tmp_path):
    result = invoke("report", ckpt, "--out", tmp_path / "page.html", "--data", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.stderr
    assert not (tmp_path / "page.html").exists()


@pytest.mark.broad
def test_several_runs_share_one_picture_and_their_differences_are_listed(ckpt, folded, tmp_path):
    out, other = tmp_path / "page.html", tmp_path / "other"
    succeed("train", "--epochs", 2, "--learning-rate", "0.01", "--out", other, *TINY)
    printed = document("report", ckpt, other, folded, "--out", out, "--quiet")
    page = Page(out.read_text(encoding="utf-8"))
    assert_loads_nothing(page)
    assert len(printed["runs"]) == 3
    found = {row["key"]: row["values"] for row in printed["differences"]}
    assert found["training.epochs"] == [3, 2, 3]
    assert found["optimizer.learning_rate"] == [None, 0.01, None]
    assert found["folded"] == [False, False, True]
    assert "optimizer.momentum" not in found
    labels = [svg["aria-label"] for svg in page.named("svg") if svg.get("class") == "chart"]
    assert all("ckpt" in label and "other" in label for label in labels)
    assert {attributes["id"] for attributes in page.named("section")} == {"results", "curves", "differences", "classes"}


@pytest.mark.broad
def test_images_of_a_folder_are_named_by_their_files(tmp_path):
    data, out = tmp_path / "data", tmp_path / "ckpt"
    write_image_folder(data, per_class=20)
    succeed("train", "--data", data, "--model", "mlp", "--model-arg", "features=[8]", "--epochs", 1, "--out", out, "-q")
    printed = document("report", out, "--split", "test", "--quiet")
    worst = printed["runs"][0]["scored"]["worst"]
    assert worst
    for row in worst:
        path = data.joinpath(*row["file"].removeprefix(str(data)).strip("/").split("/"))
        assert path.is_file()
        assert path.parent.name == row["label"]
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    words = page.words.replace("/ ", "/")  # a line may break after a folder
    assert all("/".join(row["file"].split("/")[-2:]) in words for row in worst)


def test_names_are_text_wherever_they_stand(run, dataset):
    report = make_report([make_layer(EVIL)], source=EVIL, format="bncli", notes=(EVIL,))
    report = report.with_history(make_history(report))
    mistakes = replace(run.scored.mistakes, class_names=(EVIL, "b", "c"))
    per_class = tuple(replace(row, name=EVIL) for row in mistakes.result.per_class)
    mistakes = replace(mistakes, result=replace(mistakes.result, per_class=per_class))
    config = replace(run.config, dataset=replace(run.config.dataset, name=EVIL), versions={EVIL: EVIL})
    evil = replace(
        run,
        checkpoint=run.checkpoint.with_name(EVIL.replace("/", "")),
        stats=report,
        scored=replace(run.scored, dataset=EVIL, mistakes=mistakes),
        config=config,
        unscored=EVIL,
    )
    for text in (report_html(evil), comparison_html([evil, run], list(differences([evil, run])))):
        page = Page(text)
        assert_loads_nothing(page)
        assert "\x1b" not in text
        assert "alert(1)" in page.words


def test_many_classes_are_drawn_as_a_picture(run):
    names = tuple(f"class {number}" for number in range(40))
    mistakes = run.scored.mistakes
    rows = tuple(replace(mistakes.result.per_class[0], name=name, count=10, accuracy=0.7) for name in names)
    confusion = np.eye(40, dtype=np.int64) * 7 + np.roll(np.eye(40, dtype=np.int64) * 3, 1, axis=1)
    many = replace(mistakes, class_names=names, result=replace(mistakes.result, per_class=rows, confusion=confusion))
    page = Page(report_html(replace(run, scored=replace(run.scored, mistakes=many))))
    assert any(svg.get("class") == "matrix-picture" for svg in page.named("svg"))
    cells = [rect for rect in page.named("rect") if (rect.get("class") or "").startswith(("right", "wrong"))]
    assert len(cells) == 80


def test_a_damaged_history_is_named(ckpt, tmp_path, monkeypatch):
    copy = shutil.copytree(ckpt, tmp_path / "ckpt")
    rows = [{"epoch": 1, "train_loss": "much"}]
    monkeypatch.setattr(checkpoint, "read_progress", lambda *_: {"history": rows, "best": None, "steps_into_epoch": 0})
    result = invoke("report", copy, "--quiet")
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
    assert "Traceback" not in result.output


def test_a_damaged_fold_report_is_named(folded, tmp_path):
    copy = shutil.copytree(folded, tmp_path / "out")
    path = copy / "fold_report.json"
    for content in ("[]", "{", json.dumps({"verification": {}, "latency_ms": 1, "norms": 3})):
        path.write_text(content)
        result = invoke("report", copy, "--quiet", "--out", tmp_path / "page.html")
        assert result.exit_code == 1, result.output
        assert "fold_report.json" in result.stderr
        assert "internal error" not in result.stderr
