"""The files for other programs: proved like the fold itself, and nothing is written where the proof fails."""

import sys

import jax
import jax.export
import numpy as np
import pytest
import safetensors.numpy

import bncli
from bncli.cli import render
from bncli.errors import CheckFailedError, FoldError
from bncli.jobs import export as exports
from bncli.jobs.fold import FoldOptions, fold_checkpoint

FORMATS = ("onnx", "safetensors", "stablehlo")


@pytest.fixture(scope="module")
def folded(trained, tmp_path_factory):
    return fold_checkpoint(
        bncli.load(trained.out), tmp_path_factory.mktemp("exports") / "out", FoldOptions(exports=(*FORMATS, "onnx"))
    )


def test_each_format_is_written_once_and_reported(folded):
    assert [export.format for export in folded.exports] == list(FORMATS)
    for report in folded.exports:
        path = folded.out / report.file
        assert report.file in folded.files
        assert report.size == path.stat().st_size
        if report.format != "safetensors":
            assert report.verification.passed
            assert report.verification.max_rel_error <= 1e-4
            assert report.verification.num_examples == folded.verification.num_examples
    assert [entry["file"] for entry in render.fold_json(folded)["exports"]] == [
        report.file for report in folded.exports
    ]


def test_stablehlo_stands_alone(folded, trained):
    program = jax.export.deserialize(bytearray((folded.out / "model.stablehlo").read_bytes()))
    original = bncli.load(trained.out)
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    expected = original.apply_fn(original.variables, images)
    np.testing.assert_allclose(program.call(images), expected, rtol=1e-4, atol=1e-5)


def test_safetensors_holds_the_checkpoints_arrays(folded):
    found = safetensors.numpy.load_file(folded.out / "model.safetensors")
    variables = bncli.load(folded.out).variables
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    assert set(found) == set(flat)
    for name, array in flat.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_dry_run_proves_the_exports_and_writes_nothing(trained, tmp_path):
    result = fold_checkpoint(bncli.load(trained.out), tmp_path / "out", FoldOptions(exports=("onnx",)), dry_run=True)
    assert result.exports[0].verification.passed
    assert not (tmp_path / "out").exists()


def test_an_export_that_computes_otherwise_is_not_written(trained, tmp_path, monkeypatch):
    def wrong(source):
        content, network = exports._onnx(source)
        return content, lambda images: network(images) * 1.001

    monkeypatch.setitem(exports.MAKERS, "onnx", wrong)
    with pytest.raises(CheckFailedError, match=r"model\.onnx differs from") as caught:
        fold_checkpoint(bncli.load(trained.out), tmp_path / "out", FoldOptions(exports=("onnx",)))
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_library_is_said_before_the_work(trained, tmp_path, monkeypatch, missing):
    monkeypatch.setattr("bncli.jobs.fold.fold", None)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(FoldError, match=f"--export onnx needs {missing}") as caught:
        fold_checkpoint(bncli.load(trained.out), tmp_path / "out", FoldOptions(exports=("onnx",)))
    assert caught.value.remedy == "pip install 'bncli[onnx]'"
