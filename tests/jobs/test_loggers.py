"""Loggers: each gets every epoch once, a resumed run goes on with its log, and none can end a training."""

import csv
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from support import tiny

import bncli
from bncli.errors import BncliError, BncliWarning
from bncli.jobs.loggers import csv_files, registry, run_loggers
from bncli.jobs.loggers.logger import LoggedRun, finite, flat
from bncli.training.progress import EpochResult

NAMES = ("tensorboard", "csv", "wandb", "trackio", "mlflow")


def trained(out, dataset, log, *, epochs=2, **options):
    config = tiny.run_config(training={"epochs": epochs, "log": log}, optimizer={"schedule_epochs": 2})
    return bncli.train(config, dataset, out, **options)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def logged(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("logged") / "ckpt"
    return trained(out, dataset, "csv")


def test_csv_has_each_epoch_once_with_the_numbers_of_the_history(logged):
    found = rows(logged.out / "logs" / "csv" / "epochs.csv")
    assert [int(row["epoch"]) for row in found] == [1, 2]
    for row, result in zip(found, logged.history, strict=True):
        assert float(row["val/accuracy"]) == result.val_accuracy
        assert float(row["train/loss"]) == result.train_loss
        assert float(row["learning_rate"]) == result.lr


def test_csv_has_the_arrays_of_each_bn_layer(logged):
    found = rows(logged.out / "logs" / "csv" / "layers.csv")
    last = {row["array"]: row for row in found if row["epoch"] == "2"}
    stats = bncli.load(logged.out, step="last").variables
    for name in ("mean", "var"):
        array = np.asarray(stats["batch_stats"]["BatchNorm_0"][name])
        row = last[f"BatchNorm_0/{name}"]
        assert float(row["p50"]) == pytest.approx(float(np.median(array)))
        assert float(row["p0"]) == pytest.approx(float(array.min()))
    assert {"BatchNorm_0/scale", "BatchNorm_0/bias"} <= set(last)


def test_a_resumed_run_goes_on_with_its_log(logged, dataset, tmp_path):
    out = tmp_path / "ckpt"
    trained(out, dataset, "csv", epochs=1)
    trained(out, dataset, "csv", epochs=2, resume=True)
    whole, parts = (rows(path / "logs" / "csv" / "epochs.csv") for path in (logged.out, out))
    for row in (*whole, *parts):
        del row["images_per_second"]
    assert whole == parts


def test_rows_of_epochs_that_are_done_again_are_dropped(tmp_path):
    run = LoggedRun(tmp_path, "run", {}, 0, {})
    logger = csv_files.create(run)
    for epoch in (1, 2, 3):
        logger.epoch({"a": epoch / 10}, {"n/mean": np.array([1.0, np.nan])}, number=epoch)
    with (tmp_path / "csv" / "epochs.csv").open("a") as file:
        file.write("4")  # cut short
    csv_files.create(LoggedRun(tmp_path, "run", {}, 2, {})).epoch({"a": 9.0}, {}, number=3)
    assert [(row["epoch"], row["a"]) for row in rows(tmp_path / "csv" / "epochs.csv")] == [
        ("1", "0.1"),
        ("2", "0.2"),
        ("3", "9.0"),
    ]
    assert {row["not_finite"] for row in rows(tmp_path / "csv" / "layers.csv")} == {"1"}


class Broken:
    """A logger whose disk is full from some epoch on."""

    id = ""

    def __init__(self, first: int) -> None:
        self.first = first
        self.calls = []

    def epoch(self, scalars, layers, *, number):
        self.calls.append(number)
        if number >= self.first:
            raise OSError(28, "No space left on device")

    def end(self, scalars, images, *, number):
        self.calls.append("end")

    def close(self):
        self.calls.append("close")


def test_a_logger_that_fails_is_left_out_with_one_warning_and_the_training_goes_on(dataset, tmp_path, monkeypatch):
    broken = Broken(2)
    monkeypatch.setattr(csv_files, "create", lambda run: broken)
    with pytest.warns(BncliWarning, match="--log csv failed.*No space left") as caught:
        result = trained(tmp_path / "ckpt", dataset, "csv", epochs=4)
    assert len(caught) == 1
    assert result.epochs_run == 4
    assert broken.calls == [1, 2, "close"]


def test_a_logger_that_cannot_start_is_an_error_before_the_first_epoch(dataset, tmp_path, monkeypatch):
    def create(run):
        raise RuntimeError("no server")

    monkeypatch.setattr(csv_files, "create", create)
    with pytest.raises(BncliError, match=r"--log csv cannot start.*no server") as caught:
        trained(tmp_path / "ckpt", dataset, "csv")
    assert "--log none" in (caught.value.remedy or "")
    monkeypatch.undo()
    assert trained(tmp_path / "ckpt", dataset, "none", resume=True).epochs_run == 2


@pytest.mark.parametrize("name", [name for name in NAMES if name != "csv"])
def test_a_missing_library_is_an_error_before_any_work(dataset, tmp_path, monkeypatch, name):
    monkeypatch.setattr(registry, "find_spec", lambda library: None)
    with pytest.raises(BncliError, match="is not installed") as caught:
        trained(tmp_path / "ckpt", dataset, f"csv,{name}")
    assert f"bncli[{name}]" in (caught.value.remedy or "")
    assert not (tmp_path / "ckpt").exists()


def test_every_name_has_an_entry():
    assert set(registry.LOGGERS) == set(NAMES)
    assert registry.logger_names("wandb,csv,csv") == ("csv", "wandb")
    assert registry.logger_names(None) == registry.logger_names("none") == ()


def test_settings_are_flat():
    assert flat({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}
    np.testing.assert_array_equal(finite(np.array([[1.0, np.nan], [np.inf, 2.0]], np.float32)), [1.0, 2.0])


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_damaged_identifiers_begin_a_new_log(tmp_path, content):
    (tmp_path / run_loggers.IDS).write_text(content)
    assert run_loggers.read_ids(tmp_path) == {}


def events(folder):
    """(step, summary) of each event in the files of a folder, by the format of TFRecord files."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(Path(folder).iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def test_tensorboard_gets_scalars_histograms_and_images(dataset, tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    out = tmp_path / "ckpt"
    trained(out, dataset, "tensorboard", epochs=1)
    result = trained(out, dataset, "tensorboard", epochs=2, resume=True)
    scalars, histograms, images, starts = {}, set(), 0, []
    for event in events(out / "logs" / "tensorboard"):
        if event.HasField("session_log"):
            starts.append(event.step)
        for value in event.summary.value:
            if value.HasField("simple_value"):
                scalars[value.tag, event.step] = value.simple_value
            elif value.HasField("histo"):
                histograms.add((value.tag, event.step))
                assert value.histo.num == 8
            elif value.HasField("image"):
                images += event.step == 2  # the first part of the run logged its own
                assert value.image.encoded_image_string.startswith(b"\x89PNG")
    for row in result.history:
        assert scalars["val/accuracy", row.epoch] == pytest.approx(row.val_accuracy)
    assert ("bn/BatchNorm_0/mean", 1) in histograms
    assert ("bn/BatchNorm_0/scale", 2) in histograms
    assert scalars["test/accuracy", 2] == pytest.approx(result.test.accuracy)
    assert starts == [2]
    assert images == result_mistakes(result, dataset)


def result_mistakes(result, dataset):
    from bncli.jobs.mistakes import MAX_WORST, find_mistakes

    found = find_mistakes(bncli.load(result.out), dataset.val, dataset.class_names)
    return min(found.count, MAX_WORST)


def test_wandb_logs_offline(dataset, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "ckpt"
    trained(out, dataset, "wandb", epochs=1)
    first = json.loads((out / "logs" / "ids.json").read_text())
    trained(out, dataset, "wandb", epochs=2, resume=True)
    assert json.loads((out / "logs" / "ids.json").read_text()) == first
    runs = list((out / "logs" / "wandb").glob("offline-run-*"))
    assert runs
    assert all(path.name.endswith(first["wandb"]) for path in runs)


def test_mlflow_logs_to_files(dataset, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "ckpt"
    trained(out, dataset, "mlflow", epochs=1)
    result = trained(out, dataset, "mlflow", epochs=2, resume=True)
    (identifier,) = json.loads((out / "logs" / "ids.json").read_text()).values()
    from bncli.jobs.loggers.mlflow_run import tracking_uri

    client = mlflow.MlflowClient(tracking_uri=tracking_uri(out / "logs"))
    history = client.get_metric_history(identifier, "val/accuracy")
    assert [(row.step, row.value) for row in history] == [(row.epoch, row.val_accuracy) for row in result.history]
    run = client.get_run(identifier)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.batch_size"] == "32"
    assert "bn/BatchNorm_0/mean/p50" in run.data.metrics


def test_trackio_logs_locally(dataset, tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="the extra trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    out = tmp_path / "ckpt"
    trained(out, dataset, "trackio", epochs=1)
    trained(out, dataset, "trackio", epochs=2, resume=True)
    assert set(json.loads((out / "logs" / "ids.json").read_text())) == {"trackio"}


def test_the_scalars_are_those_of_the_epoch():
    from bncli.jobs.loggers.logger import scalars_of

    result = EpochResult(1, 0.5, 0.6, 0.7, 0.8, 0.01, 3.0, 100.0)
    assert scalars_of(result)["val/loss"] == 0.7
    assert set(scalars_of(result)) == {
        "train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate", "images_per_second",
    }  # fmt: skip
