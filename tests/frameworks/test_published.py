"""Networks in each framework's idiom, and those that frameworks publish, fold with one call."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
LIBRARIES = {"linen": "flax", "nnx": "flax", "equinox": "equinox", "haiku": "haiku", "keras": "keras"}
EXPORT_LIMIT = 1e-4  # onnxruntime orders its sums otherwise


@pytest.fixture(scope="module")
def script():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    spec = importlib.util.spec_from_file_location("bench_frameworks", SCRIPTS / "bench_frameworks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))


def check(script, row):
    assert row["as_expected"], row
    assert row["proof"] == "proved", row
    assert script.is_exact(row), row
    assert row["onnx_norms"] == 0, row
    assert max(row["onnx_error"], row["stablehlo_error"]) <= EXPORT_LIMIT, row


@pytest.mark.slow
@pytest.mark.parametrize("framework", LIBRARIES)
def test_networks_fold_with_one_call(script, framework):
    if importlib.util.find_spec(LIBRARIES[framework]) is None:
        pytest.skip(f"{framework} is not installed")
    for name in script.networks(framework):
        check(script, script.measure(framework, name))


def test_recorded_networks_are_as_they_must_be_and_in_the_guide(script):
    document = json.loads(script.RESULTS.read_text(encoding="utf-8"))
    for row in document["rows"]:
        check(script, row)
    guide = (SCRIPTS.parent / "docs" / "guides" / "frameworks.md").read_text(encoding="utf-8")
    assert script.markdown(document) in guide
