"""The commands that read a checkpoint, trained or folded."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.planting import plant

from cli.conftest import document, invoke, succeed


@pytest.mark.sample(1)
@pytest.mark.parametrize("which", ["ckpt", "folded"])
def test_eval_document(which, request):
    result = document("eval", request.getfixturevalue(which))
    assert result["schema"] == "bncli.eval/1"
    assert result["num_examples"] == 359 == np.sum(result["confusion"])
    assert result["accuracy"] == pytest.approx(np.trace(result["confusion"]) / 359)
    assert [row["name"] for row in result["per_class"]] == list("0123456789")
    assert sum(row["count"] for row in result["per_class"]) == 359
    assert result["top5_accuracy"] >= result["accuracy"]


@pytest.mark.broad
def test_test_time_augmentation_is_named_and_changes_the_score(ckpt):
    plain, averaged = (document("eval", ckpt, "--tta", mode) for mode in ("none", "flip"))
    assert (plain["tta"], averaged["tta"]) == ("none", "flip")
    assert plain["loss"] != averaged["loss"]
    assert "--tta flip" in " ".join(succeed("eval", ckpt, "--tta", "flip").split())
    assert "mirror" not in succeed("eval", ckpt)


def test_folded_checkpoint_predicts_what_the_original_does(ckpt, folded):
    for split in ("train", "val", "test"):
        original, after = (document("eval", path, "--split", split) for path in (ckpt, folded))
        assert original["predictions_sha256"] == after["predictions_sha256"]
        assert original["loss"] == pytest.approx(after["loss"], rel=1e-5)


def test_running_statistics_do_not_depend_on_the_batch_size_and_batch_statistics_do(ckpt):
    one, many = (document("eval", ckpt, "--batch-size", size) for size in (5, 100))
    assert one["loss"] == pytest.approx(many["loss"], rel=1e-5)
    one, many = (document("eval", ckpt, "--stats", "batch", "--batch-size", size) for size in (5, 100))
    assert one["stats"] == "batch"
    assert one["loss"] != pytest.approx(many["loss"], rel=1e-3)


def test_batch_statistics_of_a_folded_checkpoint_are_refused(folded):
    result = invoke("eval", folded, "--stats", "batch")
    assert result.exit_code == 2
    assert "folded" in result.stderr


def test_min_accuracy_is_a_check(ckpt):
    assert invoke("eval", ckpt, "--min-accuracy", 0).exit_code == 0
    result = invoke("eval", ckpt, "--min-accuracy", 1)
    assert result.exit_code == 3
    assert "below" in result.stderr


def test_eval_of_other_data_needs_the_same_classes(ckpt, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "ten.npz", x_train=images, y_train=np.arange(40) % 10, x_test=images, y_test=np.arange(40) % 10)
    assert document("eval", ckpt, "--data", tmp_path / "ten.npz")["num_examples"] == 40
    np.savez(tmp_path / "two.npz", x_train=images, y_train=np.arange(40) % 2)
    result = invoke("eval", ckpt, "--data", tmp_path / "two.npz")
    assert result.exit_code == 1
    assert "classes" in result.stderr


@pytest.mark.parametrize("which", ["ckpt", "folded"])
def test_predict(which, request, tmp_path):
    from bncli.data.digits import read_digits

    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, image in zip(paths, read_digits().train.images, strict=False):
        Image.fromarray(image[..., 0]).save(path)
    result = document("predict", request.getfixturevalue(which), *paths, "--top", 3)
    assert [row["path"] for row in result["images"]] == [str(path) for path in paths]
    for row in result["images"]:
        probabilities = [entry["probability"] for entry in row["classes"]]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)


def test_predict_names_a_file_that_is_no_image(ckpt, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    Image.new("L", (8, 8)).save(tmp_path / "10.png")
    Image.new("L", (8, 8)).save(tmp_path / "9.png")
    result = invoke("predict", ckpt, tmp_path / "notes.txt", tmp_path, "--json")
    assert result.exit_code == 1
    assert "notes.txt" in result.stderr
    printed = json.loads(result.stdout)
    assert [row["path"] for row in printed["images"]] == [str(tmp_path / name) for name in ("9.png", "10.png")]
    assert [row["path"] for row in printed["failures"]] == [str(tmp_path / "notes.txt")]


def test_inspect_stats_document(ckpt):
    result = document("inspect-stats", ckpt)
    assert result["schema"] == "bncli.inspect-stats/1"
    assert [row["name"] for row in result["layers"]] == [f"BatchNorm_{k}" for k in range(6)]
    assert all(row["channels"] == 8 and row["momentum"] == 0.9 and row["nonfinite"] == 0 for row in result["layers"])


def test_inspect_stats_says_that_a_checkpoint_is_folded_and_from_what(ckpt, folded):
    result = document("inspect-stats", folded)
    assert result["format"] == "bncli-folded"
    assert result["layers"] == []
    assert result["folded_from"]["checkpoint"] == str(ckpt)
    assert f"folded from {ckpt}" in "".join(result["notes"])
    assert "folded from" in " ".join(succeed("inspect-stats", folded).split())


@pytest.fixture
def sick(ckpt, tmp_path):
    """A copy of ``ckpt`` whose step 99 has an error and a warning on one layer."""
    copy = shutil.copytree(ckpt, tmp_path / "sick")
    plant(copy, {"BatchNorm_2": {"var": {0: np.nan, 1: 1e-6}, "mean": {1: 0.5}}})
    return copy


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [
        ([], 0),
        (["--fail-on", "error"], 3),
        (["--fail-on", "error", "--ignore", "nonfinite"], 0),
        (["--fail-on", "warning", "--ignore", "nonfinite"], 3),
        (["--fail-on", "warning", "--ignore", "nonfinite", "--ignore", "epsilon-dominated"], 0),
    ],
)
def test_inspect_stats_fails_on_findings_that_are_not_ignored(sick, options, exit_code):
    # Half of the four channels of the last layer are dead in this small network anyway.
    result = invoke("inspect-stats", sick, "--step", 99, "--json", "--ignore", "dead-channels", *options)
    assert result.exit_code == exit_code, result.output
    codes = {finding["code"] for finding in json.loads(result.stdout)["findings"] if finding["severity"] != "info"}
    assert codes == {"nonfinite", "epsilon-dominated"} - set(options)


def test_inspect_stats_lists_the_codes_there_are(ckpt):
    result = invoke("inspect-stats", ckpt, "--ignore", "nonfinite", "--ignore", "dead")
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert "no finding has the code 'dead'" in said
    assert "dead-channels, dead-inputs, epsilon-differs" in said


def test_fold_document_and_report(ckpt, folded):
    result = document("fold", ckpt, "unused", "--dry-run")
    assert result["schema"] == "bncli.fold/1"
    assert (result["folded"], result["kept"], result["out"], result["files"]) == (6, 0, None, [])
    assert result["verification"]["passed"]
    assert result["verification"]["top1_agreement"] == 1.0
    report = json.loads((folded / "fold_report.json").read_text())
    assert report["norms"] == result["norms"]
    assert all((folded / name).exists() for name in report["files"])


def test_a_kept_layer_is_named_with_its_reason_and_still_works(ckpt, tmp_path):
    result = document("fold", ckpt, tmp_path / "out", "--exclude", "BatchNorm_2")
    kept = [row for row in result["norms"] if row["status"] == "kept"]
    assert [row["name"] for row in kept] == ["BatchNorm_2"]
    assert kept[0]["reason"]
    assert "because" in succeed("fold", ckpt, "unused", "--exclude", "BatchNorm_2", "--dry-run")
    assert document("eval", tmp_path / "out")["predictions_sha256"] == document("eval", ckpt)["predictions_sha256"]
    assert document("inspect-stats", tmp_path / "out")["folded_from"]["kept"] == ["BatchNorm_2"]


def test_fold_writes_nothing_when_the_proof_fails(ckpt, tmp_path):
    result = invoke("fold", ckpt, tmp_path / "out", "--tolerance", 0)
    assert result.exit_code == 3
    assert "differs" in result.stderr
    assert not (tmp_path / "out").exists()


def test_fold_refuses_the_source_a_folded_checkpoint_and_a_full_directory(ckpt, folded, tmp_path):
    assert "is the checkpoint to work on" in invoke("fold", ckpt, ckpt, "--overwrite").stderr
    assert "folded already" in invoke("fold", folded, tmp_path / "again").stderr
    assert "already holds a checkpoint" in " ".join(invoke("fold", ckpt, folded).stderr.split())


@pytest.mark.parametrize("command", ["eval", "inspect-stats"])
def test_a_directory_that_is_no_checkpoint_is_named(command, tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        result = invoke(command, path)
        assert result.exit_code == 1
        assert str(path) in "".join(result.stderr.split("\n"))
        assert "Traceback" not in result.output


def test_data_list_knows_digits(tmp_path):
    rows = {row["name"]: row for row in document("data", "list")["datasets"]}
    assert rows["digits"]["found"]
    assert rows["cifar10"]["image_shape"] == [32, 32, 3]
    assert "fashion-mnist" in succeed("data", "list")


def test_data_fetch_of_an_unknown_name():
    result = invoke("data", "fetch", "imagenet")
    assert result.exit_code == 2
    assert "cifar10" in result.stderr


@pytest.mark.parametrize("which", ["ckpt", "folded"])
def test_text_fits_80_columns(which, request, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = request.getfixturevalue(which)
    for text in (succeed("eval", path), succeed("data", "list")):
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_debug_shows_the_traceback(tmp_path):
    result = invoke("eval", tmp_path, "--debug")
    assert type(result.exception).__name__ == "CheckpointError"


@pytest.mark.slow  # three processes, each of which compiles
def test_bfloat16_goes_all_the_way(tmp_path):
    """In processes of its own: XLA reads its flags once, and bfloat16 needs others (see ``runtime``)."""
    import json
    import os
    import subprocess
    import sys

    # Without the flags that the commands of this process have set for float32.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}

    def run(*argv):
        command = [sys.executable, "-m", "bncli", *map(str, argv), "--json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    network = ["--model-arg", "features=[4]", "--quiet"]
    run("train", "--precision", "bfloat16", "--epochs", 1, "--out", tmp_path / "ckpt", *network)
    folded = run("fold", tmp_path / "ckpt", tmp_path / "out")
    assert (folded["folded"], folded["kept"]) == (2, 0)
    assert folded["verification"]["max_rel_error"] < 0.02
    assert run("eval", tmp_path / "out")["num_examples"] == 359


@pytest.mark.broad
def test_running_out_of_memory_is_no_fault_of_bncli(tmp_path):
    """In a process of its own: with steps dispatched ahead, JAX 0.10 waits for ever for an array without memory."""
    import os
    import subprocess
    import sys

    command = [sys.executable, "-m", "bncli", "train", "--model", "mlp", "--model-arg", "features=[2000000000]"]
    result = subprocess.run(
        [*command, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"COLUMNS": "1000"},
    )
    assert result.returncode == 1
    assert "error: out of memory; " in result.stderr
    assert "remedy: Lower --batch-size or --image-size, or use a machine" in result.stderr
