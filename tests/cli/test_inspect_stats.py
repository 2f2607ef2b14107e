"""``bncli inspect-stats`` on real checkpoints: what it adds to the table of layers, and its other forms."""

import csv
import io
import json
import math
import shutil

import pytest

import bncli
from cli.conftest import document, invoke, succeed


def table(*argv):
    """The rows of the CSV on stdout, which must be all of it."""
    return list(csv.DictReader(io.StringIO(succeed("inspect-stats", *argv, "--csv"))))


@pytest.fixture(scope="module")
def looked_at(ckpt, tmp_path_factory):
    """The document, and the HTML written beside it, of a checkpoint with all that there is to see."""
    html = tmp_path_factory.mktemp("report") / "report.html"
    result = document("inspect-stats", ckpt, "--data", "--history", "--html", html, "--quiet")
    return result, html


def test_data_are_in_the_document(ckpt, looked_at):
    result, _ = looked_at
    assert result["schema"] == "bncli.inspect-stats/1"
    data = result["data"]
    assert (data["dataset"], data["num_examples"], data["num_val"]) == ("digits", 1294, 144)
    assert [row["name"] for row in data["layers"]] == [row["name"] for row in result["layers"]]
    assert data["running"]["accuracy"] == document("eval", ckpt, "--split", "val")["accuracy"]
    assert [row["batch_size"] for row in data["by_batch_size"]] == [2, 8, 32, 128]
    for row in data["layers"]:
        assert row["drift"].keys() == {"distance", "std_ratio", "worst_std_ratio"}
        assert row["output_gap"] > 0


def test_history_is_in_the_document(looked_at):
    result, _ = looked_at
    assert [row["name"] for row in result["history"]] == [row["name"] for row in result["layers"]]
    for row in result["history"]:
        assert row["epochs"] == [1, 2, 3]
        for track in ("output", "mean", "var"):
            assert {len(values) for values in row[track].values()} == {3}
            assert row[track].keys() == {"p15", "p50", "p85"}


def test_html_is_written_beside_the_result(looked_at):
    _, html = looked_at
    text = html.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "Over the epochs" in text
    assert "Output gap" in text
    assert [path.name for path in html.parent.iterdir()] == [html.name]


def test_html_does_not_replace_a_file_by_accident(ckpt, tmp_path):
    html = tmp_path / "report.html"
    html.write_text("mine")
    result = invoke("inspect-stats", ckpt, "--html", html)
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert result.stdout == ""
    assert html.read_text() == "mine"
    result = invoke("inspect-stats", ckpt, "--html", html, "--overwrite")
    assert result.exit_code == 0
    assert "report written to" in result.stderr
    assert html.read_text().startswith("<!doctype html>")


def test_text_fits_80_columns(ckpt, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for options in (["--history"], ["--layer", "BatchNorm_1", "--history"], [ckpt]):
        lines = succeed("inspect-stats", ckpt, *options).splitlines()
        assert max(len(line.rstrip()) for line in lines) <= 80


def test_without_data_or_history_the_document_says_none(ckpt):
    result = document("inspect-stats", ckpt)
    assert result["data"] is result["history"] is None
    assert "values" not in result["layers"][0]


def test_no_history_is_a_note(ckpt, folded, tmp_path):
    older = shutil.copytree(ckpt, tmp_path / "older")
    (older / "layers.jsonl").unlink()
    for path in (older, folded):
        result = document("inspect-stats", path, "--history")
        assert result["history"] == []
        assert "layers.jsonl" in result["notes"][-1]


@pytest.mark.broad
def test_data_from_elsewhere(ckpt, tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x_train=images, y_train=np.arange(60) % 10)
    result = document("inspect-stats", ckpt, "--data", tmp_path / "noise.npz")
    assert document("inspect-stats", ckpt, "--data-from", tmp_path / "noise.npz") == result  # the former name
    assert result["data"]["dataset"] != "digits"
    assert result["data"]["first_apart"] is not None
    assert "stale-statistics" in {finding["code"] for finding in result["findings"]}
    np.savez(tmp_path / "two.npz", x_train=images, y_train=np.arange(60) % 2)
    assert invoke("inspect-stats", ckpt, "--data", tmp_path / "two.npz").exit_code == 1


def test_data_are_for_what_bncli_trained(folded):
    result = invoke("inspect-stats", folded, "--data")
    assert result.exit_code == 1
    assert "has no BN layer to measure" in " ".join(result.stderr.split())


@pytest.mark.parametrize("name", ["BatchNorm_1", "*_1"])
def test_layer_is_channel_by_channel(ckpt, name):
    text = succeed("inspect-stats", ckpt, "--layer", name)
    assert text.startswith("BatchNorm_1: 8 channels, ε = 1e-05, momentum 0.9")
    (row,) = document("inspect-stats", ckpt, "--layer", name)["layers"]
    (layer,) = (layer for layer in bncli.inspect_stats(ckpt).arrays if layer.name == "BatchNorm_1")
    assert row["values"]["gain"] == layer.gain.tolist()
    assert row["values"]["mean"] == layer.mean.tolist()


def test_a_layer_that_is_not_there_lists_close_names(ckpt):
    result = invoke("inspect-stats", ckpt, "--layer", "BatchNorm_9")
    assert result.exit_code == 2
    assert "BatchNorm_1" in result.stderr


def test_csv_has_a_row_per_layer_and_the_same_numbers(ckpt):
    rows = table(ckpt)
    layers = document("inspect-stats", ckpt)["layers"]
    assert [row["layer"] for row in rows] == [layer["name"] for layer in layers]
    for row, layer in zip(rows, layers, strict=True):
        assert int(row["channels"]) == layer["channels"]
        for quantity in ("mean", "var", "scale", "bias", "gain"):
            for end in ("min", "median", "max"):
                assert float(row[f"{quantity}_{end}"]) == layer[quantity][end]
        assert None not in row.values()


def test_csv_has_a_row_per_channel_with_layer(ckpt):
    rows = table(ckpt, "--layer", "*")
    layers = bncli.inspect_stats(ckpt).arrays
    assert [(row["layer"], int(row["channel"])) for row in rows] == [
        (layer.name, channel) for layer in layers for channel in range(layer.channels)
    ]
    for row in rows:
        layer = next(layer for layer in layers if layer.name == row["layer"])
        for quantity in ("mean", "var", "scale", "bias", "gain"):
            assert float(row[quantity]) == getattr(layer, quantity)[int(row["channel"])]


def test_csv_round_trips_what_is_hard_to_write():
    import numpy as np
    from support.reports import make_layer, make_live, make_report

    from bncli.cli.render import stats_csv

    name = 'a,"b"\nc'
    report = make_report(
        [make_layer(name, mean={0: np.nan, 1: np.inf, 2: -np.inf, 3: 0.1 + 0.2}, scale=None, bias=None)]
    )
    rows = list(csv.DictReader(io.StringIO(stats_csv(report, by_channel=True))))
    assert {row["layer"] for row in rows} == {'a,"b"\\nc'}  # a line break is spelled out
    means = [float(row["mean"]) for row in rows]
    assert math.isnan(means[0])
    assert means[1:4] == [math.inf, -math.inf, 0.1 + 0.2]
    assert rows[0]["scale"] == ""
    assert "nonfinite" in rows[0]["findings"].split()
    (row,) = csv.DictReader(io.StringIO(stats_csv(report.with_data(make_live(report, gaps=(0.75,)), ()))))
    assert (row["severity"], row["scale_median"], float(row["output_gap"])) == ("error", "", 0.75)


@pytest.fixture(scope="module")
def repaired(ckpt, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "repaired"
    succeed("recalibrate", ckpt, out, "--quiet")
    return out


@pytest.mark.broad
def test_two_checkpoints_side_by_side(ckpt, repaired):
    result = document("inspect-stats", ckpt, repaired)
    assert result["schema"] == "bncli.inspect-stats-compare/1"
    assert (result["a"]["source"], result["b"]["source"]) == (str(ckpt), str(repaired))
    assert [row["name"] for row in result["layers"]] == [f"BatchNorm_{k}" for k in range(6)]
    assert all(row["mean_shift"] > 0 and row["scale_change"] == 0 and not row["same"] for row in result["layers"])
    assert result["only_in_a"] == result["only_in_b"] == result["other_channels"] == []
    rows = table(ckpt, repaired)
    assert [float(row["var_ratio"]) for row in rows] == [row["var_ratio"] for row in result["layers"]]
    assert f"{ckpt}→{repaired}" in "".join(succeed("inspect-stats", ckpt, repaired).split())


def test_two_steps_of_a_run(ckpt):
    steps = sorted(int(path.name) for path in (ckpt / "steps").iterdir() if path.name.isdecimal())
    result = document("inspect-stats", ckpt, ckpt, "--step", steps[0], "--other-step", steps[-1])
    assert all(row["scale_change"] > 0 for row in result["layers"])
    assert all(row["same"] for row in document("inspect-stats", ckpt, ckpt)["layers"])


def test_of_two_checkpoints_a_new_finding_is_what_fails(ckpt, tmp_path):
    import jax
    import numpy as np

    from bncli import checkpoint

    sick = shutil.copytree(ckpt, tmp_path / "sick")
    variables = jax.tree.map(np.copy, checkpoint.load(ckpt).variables)
    variables["batch_stats"]["BatchNorm_1"]["var"][2] = np.nan
    checkpoint.save(sick, 999, variables=variables, optimizer={"step": np.int32(999)}, progress={"best": None})
    worse = invoke("inspect-stats", ckpt, sick, "--other-step", "last", "--fail-on", "error", "--json")
    assert worse.exit_code == 3
    appeared = json.loads(worse.stdout)["findings"]["appeared"]
    assert ("nonfinite", "BatchNorm_1") in {(finding["code"], finding["layer"]) for finding in appeared}
    better = invoke("inspect-stats", sick, ckpt, "--step", "last", "--other-step", "best", "--fail-on", "error")
    assert better.exit_code == 0, better.output
    same = invoke("inspect-stats", sick, sick, "--step", "last", "--fail-on", "error")
    assert same.exit_code == 0, same.output


@pytest.mark.parametrize(
    "options",
    [
        ["--csv", "--json"],
        ["--other-step", "last"],
        ["--data-dir", "."],
        ["other", "--layer", "x"],
        ["other", "--data"],
        ["--data", "digits", "--data-from", "digits"],
        ["other", "--history"],
        ["other", "--html", "x.html"],
    ],
)
def test_options_that_do_not_go_together(options):
    result = invoke("inspect-stats", "ckpt", *options)
    assert result.exit_code == 2
    assert options[-2 if options[0] == "--csv" else 0 if options[0] != "other" else 1] in result.stderr


# Checkpoints of other frameworks.


@pytest.fixture
def foreign(tmp_path):
    """A file of another framework's names, whose second variance is bad for any ε."""
    import numpy as np
    import safetensors.numpy

    arrays = {f"bn.{name}": np.array([1, 2, 3], np.float32) for name in ("running_mean", "weight", "bias")}
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays | {"bn.running_var": np.array([1, -1, 1], np.float32)}, path)
    return path


def test_a_foreign_checkpoint_is_looked_at_like_any_other(foreign):
    result = document("inspect-stats", foreign, "--epsilon", "0.25", "--momentum", "0.5")
    assert result["format"] == "safetensors"
    assert [(row["name"], row["epsilon"], row["momentum"]) for row in result["layers"]] == [("bn", 0.25, 0.5)]
    assert [(row["code"], row["channels"]) for row in result["findings"]] == [("negative-variance", [1])]
    assert "update_bn" in result["findings"][0]["remedy"]  # PyTorch's own
    assert invoke("inspect-stats", foreign, "--fail-on", "error").exit_code == 3
    assert "PyTorch's default" in succeed("inspect-stats", foreign)


@pytest.mark.parametrize("options", [["--data"], ["--history"]])
def test_what_only_bnclis_own_checkpoints_have_is_said(foreign, options):
    result = invoke("inspect-stats", foreign, *options)
    assert "Traceback" not in result.output
    assert result.exit_code == (1 if "--data" in options else 0)
    assert "its network is not known" in result.stderr or "no history" in " ".join(result.stdout.split())


def test_a_setting_out_of_range_is_a_usage_error(foreign):
    result = invoke("inspect-stats", foreign, "--epsilon", "-1")
    assert result.exit_code == 2
    assert "epsilon" in result.stderr
