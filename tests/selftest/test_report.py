"""Before training: a pass is remembered, a failure is refused with its figure and never remembered."""

import pytest

from bncli.errors import RuntimeCheckError
from bncli.process import jaxlib
from bncli.selftest import remembered, report
from bncli.selftest.checks import Check

GOOD = Check("good", lambda: {"a sum": ([1.0], [1.0])}, 1e-5)
BAD = Check("bad", lambda: {"a sum": ([0.992], [1.0])}, 1e-5)


@pytest.fixture(autouse=True)
def _fresh_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def run(monkeypatch):
    """Sets the quick form to the given checks; the list of the names of those that were run."""
    seen = []
    real = report.run_check
    monkeypatch.setattr(report, "run_check", lambda check: seen.append(check.name) or real(check))

    def run(*checks):
        monkeypatch.setattr(report, "QUICK", checks)
        return seen

    return run


def test_a_pass_is_remembered(run):
    seen = run(GOOD)
    assert report.check_before_training() == ()
    assert report.check_before_training() == ()
    assert seen == ["good"]


def test_a_failure_names_the_check_and_the_figure_and_is_not_remembered(run):
    seen = run(GOOD, BAD)
    for _ in range(2):
        with pytest.raises(RuntimeCheckError, match=r"bad: off by 0\.008 in a sum, allowed 1e-05") as caught:
            report.check_before_training()
    assert caught.value.remedy.startswith("pip install 'jax>=0.10.0,!=0.10.2,!=0.11.*'")
    assert "--allow-bad-jaxlib" in caught.value.remedy
    assert seen == ["good", "bad"] * 2
    assert not remembered.has_passed(remembered.current_key())


def test_a_failure_that_is_allowed_is_a_warning_and_not_remembered(run):
    run(BAD)
    (warning,) = report.check_before_training(allow_bad_jaxlib=True)
    assert "bad: off by 0.008" in warning
    with pytest.raises(RuntimeCheckError):
        report.check_before_training()


def test_a_jaxlib_that_is_known_to_be_bad_is_not_run(run, monkeypatch):
    seen = run(GOOD)
    monkeypatch.setattr(jaxlib, "known_fault", lambda: "jaxlib 0.10.2 computes wrong numbers")
    assert report.check_before_training(allow_bad_jaxlib=True) == ("jaxlib 0.10.2 computes wrong numbers",)
    assert seen == []


def test_on_another_backend_the_checks_are_run_here_without_those_of_the_cpu(monkeypatch):
    monkeypatch.setattr(report.jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(report, "FULL", (GOOD, Check("crash", lambda: {}, 1e-5, only_cpu=True), BAD))
    assert [(outcome.name, outcome.passed) for outcome in report.examine()] == [("good", True), ("bad", False)]
