"""Every notebook of `examples/` runs to its end."""

import runpy

import pytest

from docs.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_three():
    assert len(EXAMPLES) == 3


@pytest.mark.pages
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
@pytest.mark.filterwarnings("default")  # of what an example imports; users see them too
def test_example_runs(script, tmp_path, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out
