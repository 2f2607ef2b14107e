"""Damaged inputs of every kind, given to every command: no traceback, no internal error, no crash, no hang.

Checksums are made anew for half of them, so that the damage reaches the readers behind the checksums.
"""

import subprocess
import sys
from collections import Counter

import pytest
from support import fuzz
from support.damage import few_or_many
from support.fuzz import KINDS, Outcome, damaged_commands, figures, run_commands, run_here, write_sound_inputs

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """One intact input of each kind."""
    root = tmp_path_factory.mktemp("sound")
    write_sound_inputs(root)
    return root


@few_or_many(400, 2000)
def test_no_damage_is_taken_for_a_fault_of_bncli(sound, tmp_path, count):
    outcomes = list(run_commands(damaged_commands(sound, tmp_path, count=count, seed=count)))
    print(figures(outcomes))
    faults = [f"{kind}: {outcome}" for kind, outcome in outcomes if outcome.fault]
    assert not faults, f"{len(faults)} of {count}:\n" + "\n".join(faults)
    slow = [f"{kind}: {outcome}" for kind, outcome in outcomes if not outcome.ends_well]
    assert not slow, "\n".join(slow)
    assert {kind for kind, _ in outcomes} == set(KINDS)
    refused = Counter(outcome.exit_code for _, outcome in outcomes)
    assert refused[1] > count / 4  # many changes mean nothing, or are noticed by `verify` alone
    assert refused[0] > count / 20


def test_a_planted_fault_is_counted(sound, monkeypatch):
    def read(directory):
        raise KeyError("planted")

    words = ["verify", str(sound / "ckpt")]
    assert run_here(words).fault == ""
    monkeypatch.setattr("bncli.checkpoint.verify_checkpoint", read)
    assert "internal error: KeyError: 'planted'" in run_here(words).fault
    assert run_here(["verify", str(sound / "gone")]).fault


def test_a_process_that_ends_is_counted_and_started_again(sound):
    ended, verified = run_commands(iter([("crash", None), ("sound", ["verify", str(sound / "ckpt")])]))
    assert ended[1].fault == "crashed"
    assert verified[1].fault == ""


def test_a_process_that_waits_for_ever_has_hung_and_one_that_answers_has_not(monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 2.0)
    for end, answers in (("; print(1, flush=True); time.sleep(9)", True), ("; time.sleep(99)", False)):
        program = [sys.executable, "-c", f"import time{end}"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert fuzz._wait(process.stdout, process.pid) is answers
            process.kill()


def test_the_figures_are_those_of_each_kind():
    outcomes = [
        ("npz", Outcome(["eval"], 0, "", 1.0, 2.0, 3 << 20)),
        ("npz", Outcome(["eval"], 1, "", 4.0, 1.0, 1 << 20)),
        ("IDX", Outcome(["eval"], -11, "crashed", 0.0, 0.0, 0)),
    ]
    table = {line[:24].strip(): line[24:].split() for line in figures(outcomes).splitlines()}
    assert table["kind"] == ["inputs", "read", "refused", "other", "faults", "CPU", "s", "wall", "s", "MiB"]
    assert table["npz"] == ["2", "1", "1", "0", "0", "4.0", "2.0", "3"]
    assert table["IDX"] == ["1", "0", "0", "1", "1", "0.0", "0.0", "0"]
    assert table["images"] == ["0", "0", "0", "0", "0", "0.0", "0.0", "0"]
    assert table["all"] == ["3", "1", "1", "1", "1", "4.0", "2.0", "3"]
