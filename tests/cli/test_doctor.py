"""``bncli doctor``, and what ``bncli train`` does with a jaxlib that computes wrong numbers."""

import importlib.metadata

import pytest

from bncli import selftest
from bncli.process import hardware, jaxlib
from bncli.selftest import Check, Outcome, report
from cli.conftest import TINY, document, invoke, succeed

JAXLIB = importlib.metadata.version("jaxlib")
PASSED = Outcome("sums", 2e-8, 1e-5, "the sum", 0.2)
WRONG = Outcome("squares", 0.0078, 1e-5, "32,769 rows", 0.2)
CRASHED = Outcome("ranks", None, 1e-5, error="the process crashed: SIGSEGV")


@pytest.fixture
def found(monkeypatch):
    """Sets the outcomes of the full form."""

    def found(*outcomes):
        monkeypatch.setattr(selftest, "examine", lambda: outcomes)

    return found


@pytest.fixture
def known_to_be_bad(monkeypatch):
    monkeypatch.setattr(jaxlib, "_known_fault", lambda version, backend: f"jaxlib {version} computes wrong numbers")


@pytest.fixture
def fails_the_quick_form(monkeypatch):
    planted = Check("planted", lambda: {"a sum": ([0.992], [1.0])}, 1e-5)
    monkeypatch.setattr(report, "QUICK", (planted,))
    monkeypatch.setattr(report.remembered, "has_passed", lambda key: False)


def test_document(found):
    found(PASSED)
    result = document("doctor")
    assert result["schema"] == "bncli.doctor/1"
    assert result["passed"] is True
    assert result["known_fault"] is None
    assert result["verdict"] == f"jaxlib {JAXLIB} passes all 1 checks"
    assert result["checks"] == [
        {
            "name": "sums",
            "difference": 2e-8,
            "tolerance": 1e-5,
            "place": "the sum",
            "seconds": 0.2,
            "error": None,
            "passed": True,
        }
    ]
    assert result["versions"] == hardware.versions()
    assert result["hardware"]["cores"] == hardware.hardware().cores
    assert isinstance(result["xla_flags"], str)
    assert result["compile_cache"].keys() == {"directory", "usable"}


def test_text(found):
    found(PASSED)
    text = succeed("doctor")
    assert f"jaxlib {JAXLIB}" in text
    assert "XLA_FLAGS" in text
    assert "compiled programs" in text
    assert ["sums", "pass", "2.0e-08", "1e-05", "0.2"] in [line.split() for line in text.splitlines()]
    assert text.splitlines()[-1] == f"jaxlib {JAXLIB} passes all 1 checks"


def test_a_check_that_fails_is_named_with_its_figure_and_the_remedy(found):
    found(PASSED, WRONG, CRASHED)
    result = invoke("doctor")
    assert result.exit_code == 3
    assert "squares: 32,769 rows" in result.stdout
    assert "7.8e-03" in result.stdout
    assert "SIGSEGV" in result.stdout
    assert result.stdout.count("FAIL") == 2
    assert f"jaxlib {JAXLIB} fails 2 of 3 checks" in result.stderr
    assert "pip install 'jax>=0.10.0,!=0.10.2,!=0.11.*'" in result.stderr


def test_the_document_is_printed_where_a_check_fails_too(found):
    import json

    found(CRASHED)
    result = invoke("doctor", "--json", "--quiet")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert found["passed"] is False
    assert found["checks"][0]["difference"] is None
    assert found["checks"][0]["error"] == "the process crashed: SIGSEGV"


def test_a_jaxlib_that_is_known_to_be_bad_is_reported_and_not_refused(found, known_to_be_bad):
    found(PASSED)
    result = invoke("doctor", "--json")
    assert result.exit_code == 3
    assert f'"known_fault": "jaxlib {JAXLIB} computes wrong numbers"' in result.stdout


def test_training_is_refused_with_the_check_and_the_remedy(fails_the_quick_form, tmp_path):
    result = invoke("train", "--epochs", 1, "--out", tmp_path / "out", *TINY)
    assert result.exit_code == 1
    assert "planted: off by 0.008 in a sum" in result.stderr
    assert "--allow-bad-jaxlib" in result.stderr
    assert not (tmp_path / "out").exists()


def test_training_goes_on_where_that_is_asked_for(fails_the_quick_form, tmp_path):
    words = [word for word in TINY if word != "--quiet"]
    result = invoke("train", "--epochs", 1, "--out", tmp_path / "out", *words, "--allow-bad-jaxlib")
    assert result.exit_code == 0, result.output
    assert "warning: " in result.stderr
    assert "planted: off by 0.008 in a sum" in result.stderr


def test_training_by_a_jaxlib_that_is_known_to_be_bad(known_to_be_bad, tmp_path):
    words = ["train", "--epochs", 1, "--out", tmp_path / "out"]
    result = invoke(*words, *TINY)
    assert result.exit_code == 1
    assert "computes wrong numbers" in result.stderr
    result = invoke(*words, *TINY[:-1], "--allow-bad-jaxlib")
    assert result.exit_code == 0, result.output
    assert f"warning: jaxlib {JAXLIB} computes wrong numbers" in result.stderr
