"""Laws of `scripts/bench_gpu.py`, with processes whose results and durations are made up."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    import bench_gpu
    import contest
    from contest_worker import CASES

ACCURACIES = [0.938, 0.941, 0.942]


class Machine:
    """Stands for the processes, and for the clock."""

    def __init__(self, *, train=20.0, warm=10.0, evaluate=5.0, case=50.0, fails=()):
        self.now, self.fails, self.commands = 0.0, fails, []
        self.durations = {"train": train, "eval": evaluate, "case": case}
        self.warm = warm

    def run(self, command, *, environment, limit):
        words = [str(word) for word in command]
        self.commands.append(words)
        kind = next((word for word in words if word in ("train", "eval")), "case")
        needed = self.durations[kind]
        self.now += min(needed, limit)
        if any(word in self.fails for word in words):
            raise bench_gpu.StepError("exit code 1: error: out of memory")
        if needed > limit:
            raise bench_gpu.StepError(f"ended after {limit:.0f} s: the time is over")
        return bench_gpu.Done(getattr(self, f"{kind}_document")(words), needed)

    def train_document(self, words):
        self.durations["train"] = self.warm
        Path(words[words.index("--out") + 1]).mkdir()
        seed = int(words[words.index("--seed") + 1])
        history = [{"epoch": n, "seconds": 1.5, "val_accuracy": value} for n, value in enumerate(ACCURACIES, start=1)]
        return {
            "history": history,
            "seconds": {"train": 4.0, "total": 9.0},
            "images_per_second": 1e5,
            "programs": {"compiled": 3, "from_cache": 0},
            "dataset": {"num_train": 45_000},
            "test": {"accuracy": 0.938 + seed / 1000},
        }

    def eval_document(self, words):
        assert words[words.index("--tta") + 1] == "flip"
        return {"accuracy": 0.95}

    def case_document(self, words):
        batch = int(words[words.index("--batch-size") + 1]) if "--batch-size" in words else 128
        row = {"name": words[words.index("--case") + 1], "batch_size": batch, "bncli": 2000.0, "peer": 1000.0}
        row |= {"peer_variant": "compiled channels_last", "ratio": 2.0, "spread": [1.9, 2.1]}
        return {"hardware": {"torch_threads": 16}, "versions": {"torch": "2"}, "cases": [row]}


def held(monkeypatch, tmp_path, machine, *words, minutes=9.0, check_torch=lambda _: None):
    """The document of a call on that machine."""
    monkeypatch.setattr(bench_gpu, "run", machine.run)
    monkeypatch.setattr(bench_gpu.time, "perf_counter", lambda: machine.now)
    monkeypatch.setattr(bench_gpu, "facts", lambda _: {"hardware": {"gpu": "a GPU"}, "versions": {"jax": "1"}})
    monkeypatch.setattr(bench_gpu, "check_torch", check_torch)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--minutes", str(minutes), "--out", str(out), *words])
    bench_gpu.main()
    assert machine.now <= minutes * 60
    return json.loads(out.read_text())


def test_a_call_measures_every_part_and_states_where(monkeypatch, tmp_path, capsys):
    document = held(monkeypatch, tmp_path, Machine(case=20))
    assert document["schema"] == "bncli.bench-gpu/1"
    assert document["hardware"] == {"gpu": "a GPU", "torch_threads": 16}
    assert document["versions"] == {"jax": "1", "torch": "2"}
    assert [case["batch_size"] for case in document["resnet50"]["cases"]] == [256, 128]
    assert {case["name"] for case in document["train"]["cases"]} == set(CASES)
    assert not any(document[part]["skipped"] for part in bench_gpu.PARTS)
    assert "ratio 2.00" in capsys.readouterr().out


def test_accuracy_has_its_interval_and_the_cold_run_stands_apart(monkeypatch, tmp_path):
    section = held(monkeypatch, tmp_path, Machine(), "--part", "accuracy")["accuracy"]
    assert [run["caches"] for run in section["runs"]] == ["cold"] + ["warm"] * 4
    assert section["cold_wall_seconds"] == {"n": 1, "median": 20.0, "min": 20.0, "max": 20.0}
    assert section["warm_wall_seconds"]["median"] == 10.0
    assert section["test_accuracy"]["mean"] == pytest.approx(0.940)
    assert section["test_accuracy"]["interval95"] == pytest.approx([0.94 - 0.001963, 0.94 + 0.001963], abs=1e-6)
    assert (section["reached"], section["reached_tta_flip"]) == (3, 5)
    assert {run["reached_epoch"] for run in section["runs"]} == {2}
    assert {run["reached_seconds"] for run in section["runs"]} == {3.0}


def test_one_run_has_no_interval(monkeypatch, tmp_path):
    section = held(monkeypatch, tmp_path, Machine(), "--part", "accuracy", "--runs", "1")["accuracy"]
    assert section["test_accuracy"] == {"n": 1, "mean": 0.938, "interval95": None}


def test_what_the_time_does_not_allow_is_left_out_with_the_reason(monkeypatch, tmp_path):
    document = held(monkeypatch, tmp_path, Machine(warm=40.0, case=100.0))
    assert len(document["accuracy"]["runs"]) == 5
    assert len(document["resnet50"]["cases"]) == 1
    assert document["resnet50"]["skipped"]["batch 128"].startswith("no time: it needs about 100 s")
    skipped = document["train"]["skipped"]
    assert len(document["train"]["cases"]) + len(skipped) == len(CASES)
    assert all(why.startswith("no time") for why in skipped.values())


def test_a_process_that_takes_too_long_is_ended_and_the_next_part_still_runs(monkeypatch, tmp_path):
    document = held(monkeypatch, tmp_path, Machine(train=1000.0, case=60.0))
    assert document["accuracy"]["runs"] == []
    assert "the time is over" in document["accuracy"]["skipped"]["seed 0"]
    assert document["resnet50"]["cases"]


def test_a_smaller_batch_takes_the_place_of_one_that_does_not_fit(monkeypatch, tmp_path):
    section = held(monkeypatch, tmp_path, Machine(case=20.0, fails=["256"]), "--part", "resnet50")["resnet50"]
    assert [case["batch_size"] for case in section["cases"]] == [128, 64]
    assert section["skipped"] == {"batch 256": "exit code 1: error: out of memory"}


def test_without_pytorch_the_rest_is_measured(monkeypatch, tmp_path):
    def refuse(python):
        raise contest.ContestError(f"{python} has no PyTorch")

    document = held(monkeypatch, tmp_path, Machine(), check_torch=refuse)
    assert len(document["accuracy"]["runs"]) == 5
    for part in ("resnet50", "train"):
        assert document[part]["cases"] == []
        assert "has no PyTorch" in document[part]["skipped"]["all"]


def test_every_option_of_the_cases_is_one_of_bench_train(monkeypatch, tmp_path):
    machine = Machine()
    held(monkeypatch, tmp_path, machine, "--quick", "--device", "cpu")
    case = next(words for words in machine.commands if "--batch-size" in words)
    assert case[case.index("--device") + 1] == "cpu"
    assert case[case.index("--variant") + 1] == "eager"


def test_a_process_is_ended_with_all_that_it_has_started(tmp_path):
    beats = tmp_path / "beats"
    child = f"""
import time
while True:
    with open({str(beats)!r}, "a") as file:
        file.write("x")
    time.sleep(0.05)
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(bench_gpu.StepError, match="the time is over"):
        bench_gpu.run([sys.executable, "-c", parent], environment={}, limit=3)
    last = beats.stat().st_size
    time.sleep(0.5)
    assert beats.stat().st_size == last > 0


def test_a_failure_is_told_by_its_line():
    command = [sys.executable, "-c", "import sys; sys.exit('note\\nerror: no such data\\nremedy: another')"]
    with pytest.raises(bench_gpu.StepError, match=r"^exit code 1: error: no such data$"):
        bench_gpu.run(command, environment={}, limit=30)


@pytest.mark.slow
def test_the_real_thing_trains(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, SCRIPTS / "bench_gpu.py", "--quick", "--device", "cpu", "--part", "accuracy", "--json"]
    done = bench_gpu.run([*command, "--out", out], environment={}, limit=540)
    assert done.document == json.loads(out.read_text())
    assert done.document["accuracy"]["test_accuracy"]["n"] == 2
