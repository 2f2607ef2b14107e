"""``bncli study`` as a user runs it: verdicts, files, going on after a kill, several processes, and bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bncli.studies import experiments
from cli.conftest import document, invoke, succeed

# One of the cheapest experiments.
NAME = "gradients"
QUICK = [NAME, "--quick", "--seeds", "2", "--quiet"]


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """(directory, document) of a study of one experiment."""
    out = tmp_path_factory.mktemp("study") / "study"
    return out, document("study", *QUICK, "--out", out)


def test_the_list_names_all_experiments():
    printed = succeed("study", "--list")
    assert all(name in printed for name in experiments())
    found = document("study", "--list", "speed")
    assert [row["name"] for row in found["experiments"]] == ["speed"]


@pytest.mark.broad
def test_a_study_writes_its_report_and_says_its_verdict(studied):
    out, found = studied
    (row,) = found["experiments"]
    assert row["verdict"] in ("supported", "not supported", "mixed")
    assert json.loads((out / "study.json").read_text()) == found
    assert {path.suffix for path in out.glob("gradients-*")} == {".csv", ".svg", ".png"}
    page = (out / "report.html").read_text()
    assert row["sentence"] in page.replace("&#x27;", "'")
    assert page.count("<svg") == len(row["figures"])
    assert page.count(f"bncli study {NAME} --data digits --seeds 2 --quick") == 2  # of the claim, and of the page
    assert "style=" not in page  # the page's policy admits no style but that of its head


@pytest.mark.broad
def test_the_second_call_measures_nothing(studied):
    out, found = studied
    started = time.perf_counter()
    printed = succeed("study", *QUICK, "--out", out)
    assert "0 of 4 cells measured here" in " ".join(printed.split())
    assert time.perf_counter() - started < 20
    assert json.loads((out / "study.json").read_text()) == found


@pytest.mark.broad
def test_without_matplotlib_there_are_the_numbers_all_the_same(studied, monkeypatch):
    out, found = studied
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("study", *[word for word in QUICK if word != "--quiet"], "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert "pip install 'bncli[study]'" in result.stderr
    assert json.loads(result.stdout) == found
    page = (out / "report.html").read_text()
    assert "<svg" not in page
    assert found["experiments"][0]["figures"][0]["title"] in page


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["sped"], 2, "no experiment 'sped'"),
        (["--shard", "0/4"], 2, "--shard 0/4: no such part"),
        (["--shard", "x"], 2, "--shard x: no such part"),
        (["--seeds", "0"], 2, "greater than or equal to 1"),
        (["--data", "nowhere"], 1, "nowhere"),
    ],
)
def test_bad_input_is_refused(argv, code, message, tmp_path):
    result = invoke("study", *argv, "--out", tmp_path / "study")
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = invoke("study", *QUICK, "--out", tmp_path)
    assert result.exit_code == 1
    assert "holds no study" in result.output


def start(out, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "bncli", "study", *QUICK, "--out", str(out), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )


@pytest.mark.slow
def test_a_killed_study_and_two_shells_end_in_the_document_of_one_process(tmp_path):
    one, out = tmp_path / "one", tmp_path / "study"
    assert start(one).wait(300) == 0
    found = (one / "study.json").read_bytes()
    first = start(out)
    while not list(out.glob("cells/*.json")):
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {path: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    assert 1 <= len(done) < 4
    shells = [start(out), start(out)]
    assert [shell.wait(300) for shell in shells] == [0, 0]
    assert (out / "study.json").read_bytes() == found
    assert {path: path.stat().st_mtime_ns for path in done} == done
    jobs = tmp_path / "jobs"
    assert start(jobs, "--jobs", "2").wait(300) == 0
    assert (jobs / "study.json").read_bytes() == found
    assert sorted(path.name for path in jobs.glob("cells/*.json")) == sorted(
        path.name for path in one.glob("cells/*.json")
    )
