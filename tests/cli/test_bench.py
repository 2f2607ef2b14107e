"""``bncli bench``: its document, its text, and its usage errors."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bncli.cli.render import bench_text
from bncli.config.document import sealed
from bncli.jobs.bench import (
    BatchTiming,
    BenchResult,
    ColdStart,
    Disturbance,
    Fastest,
    NetworkTiming,
    Spread,
    Target,
)
from bncli.process.hardware import Hardware
from cli.conftest import document, invoke, succeed

QUICK = ["--batch-sizes", "1,5", "--rounds", 5, "--no-cold", "--quiet"]


@pytest.fixture(scope="module")
def onnx(ckpt, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "out"
    succeed("fold", ckpt, out, "--export", "onnx")
    return out / "model.onnx"


def test_document(ckpt, folded, onnx):
    result = document("bench", ckpt, folded, onnx, *QUICK)
    assert result["schema"] == "bncli.bench-inference/1"
    assert (result["image_shape"], result["precision"]) == ([8, 8, 1], "float32")
    assert [row["checkpoint"] for row in result["networks"]] == [str(path) for path in (ckpt, folded, onnx)]
    assert [row["kind"] for row in result["networks"]] == ["trained", "folded", "onnx"]
    assert result["hardware"].keys() == {"cpu", "cores", "devices"}
    assert "onnxruntime" in result["versions"]
    for row in result["networks"]:
        assert row["cold_seconds"] is row["memory_bytes"] is None
        assert [batch["batch_size"] for batch in row["batches"]] == [1, 5]
        for batch in row["batches"]:
            assert batch["rounds"] == 5
            assert batch["first_call_seconds"] is None
            assert 0 < batch["p10_ms"] <= batch["median_ms"] <= batch["p90_ms"]
            assert batch["images_per_second"] == pytest.approx(batch["batch_size"] / batch["median_ms"] * 1e3)
    assert [batch["ratio"] for batch in result["networks"][0]["batches"]] == [1, 1]
    assert [row["batch_size"] for row in result["fastest"]] == [1, 5]
    assert [row["batch_size"] for row in result["disturbances"]] == [1, 5]
    named = {str(path) for path in (ckpt, folded, onnx)}
    assert all(row["checkpoints"] and named.issuperset(row["checkpoints"]) for row in result["fastest"])


@pytest.mark.broad
def test_cold_starts_are_measured_by_default(ckpt):
    result = document("bench", ckpt, "--batch-sizes", "2", "--rounds", 5)
    (row,) = result["networks"]
    assert row["cold_seconds"]["start"] > 0
    assert row["cold_seconds"]["open"] > 0
    assert row["memory_bytes"].keys() == {"before_open", "peak"}
    assert row["batches"][0]["first_call_seconds"] > 0
    assert result["fastest"] == []


def test_progress_is_lines_on_stderr_unless_quiet(ckpt):
    words = ["bench", ckpt, *QUICK[:-1]]
    assert invoke(*words).stderr.split("\n")[:2] == ["batch 1 …", "batch 5 …"]
    assert invoke(*words, "--quiet").stderr == ""


@pytest.mark.parametrize("sizes", ["", "0", "1,,2", "1,-2", "many", "1.5"])
def test_batch_sizes_that_are_none_are_refused(ckpt, sizes):
    result = invoke("bench", ckpt, "--batch-sizes", sizes)
    assert result.exit_code == 2
    assert "--batch-sizes" in result.stderr


def test_a_batch_size_named_twice_is_measured_once(ckpt):
    result = document("bench", ckpt, "--batch-sizes", "3, 3", "--rounds", 5, "--no-cold")
    assert [batch["batch_size"] for batch in result["networks"][0]["batches"]] == [3]


def test_networks_for_other_images_are_refused(ckpt, tmp_path):
    config = json.loads((ckpt / "config.json").read_text())
    config["preprocessing"]["size"] = [9, 9]
    (tmp_path / "config.json").write_text(sealed(config))
    result = invoke("bench", ckpt, tmp_path)
    assert result.exit_code == 2
    assert "cannot be compared" in result.stderr


def test_a_missing_checkpoint_is_named(ckpt, tmp_path):
    result = invoke("bench", ckpt, tmp_path / "missing")
    assert result.exit_code == 1
    assert "missing" in result.stderr


def network(name, kind, milliseconds, ratio):
    """Batches of 1 and of 256; the latter take 100 times as long."""
    cold = ColdStart(1.04, 0.0761, (0.000307, 12.5), 200 << 20, 316 << 20)
    batches = [
        BatchTiming(size, 30, 12, Spread(*(factor * value for value in milliseconds)), Spread(*ratio))
        for size, factor in ((1, 1), (256, 100))
    ]
    return NetworkTiming(Path(name), 336, kind, cold, tuple(batches))


RESULT = BenchResult(
    target=Target((32, 32, 3), "float32"),
    networks=(
        network("ckpt", "trained", (0.5734, 0.4771, 0.591), (1, 1, 1)),
        network("out/model.onnx", "onnx", (0.0584, 0.0571, 0.0606), (9.81, 8.13, 10.2)),
    ),
    fastest=(Fastest(1, (1,), 9.81), Fastest(256, (1, 0), None)),
    disturbances=(Disturbance(1, 0.04), Disturbance(256, None)),
    hardware=Hardware("Some CPU", 2, ("cpu",)),
    versions={},
)


def text(result):
    """The text on a terminal of 80 columns, without blanks at the ends of lines."""
    console = Console(file=StringIO(), width=80, highlight=False)
    console.print(bench_text(result))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_text():
    assert (
        text(RESULT)
        == """\
32×32×3 images, float32, 30 interleaved rounds, on cpu
Some CPU, 2 cores
warm, ms        batch  median        p10–p90  images/s  speed     p10–p90
ckpt                1   0.573    0.477–0.591     1,744     1×
out/model.onnx      1  0.0584  0.0571–0.0606    17,123  9.81×  8.13–10.20
ckpt              256    57.3      47.7–59.1     4,465     1×
out/model.onnx    256    5.84      5.71–6.06    43,836  9.81×  8.13–10.20
cold, ms        kind     start  open  call 1  call 256  peak memory
ckpt            trained  1,040  76.1   0.307    12,500      316 MiB
out/model.onnx  onnx     1,040  76.1   0.307    12,500      316 MiB
batch 1: out/model.onnx is the fastest, 9.81× as fast as the next
batch 256: no significant difference"""
    )


def test_text_of_one_network_compares_nothing():
    alone = replace(RESULT.networks[0], cold=None)
    assert (
        text(replace(RESULT, networks=(alone,), fastest=()))
        == """\
32×32×3 images, float32, 30 interleaved rounds, on cpu
Some CPU, 2 cores
warm, ms  batch  median      p10–p90  images/s
ckpt          1   0.573  0.477–0.591     1,744
ckpt        256    57.3    47.7–59.1     4,465"""
    )


def test_text_names_all_that_are_level():
    level = Fastest(1, (1, 0), 2.0)
    assert text(replace(RESULT, fastest=(level,))).splitlines()[-2:] == [
        "batch 1: out/model.onnx and ckpt are the fastest, 2.00× as fast as the next,",
        "with no significant difference between them",
    ]


def test_text_says_how_much_other_programs_disturbed():
    disturbances = (Disturbance(1, 0.04), Disturbance(32, 1.26), Disturbance(256, None))
    assert text(replace(RESULT, disturbances=disturbances)).splitlines()[-1] == (
        "other programs used up to 1.3 of 2 cores: stop them and measure again"
    )


def test_text_without_what_the_system_does_not_tell():
    first = replace(RESULT.networks[0], cold=replace(RESULT.networks[0].cold, memory_peak=None))
    assert "MiB" not in text(replace(RESULT, networks=(first,), fastest=()))
