"""One network as trained and folded checkpoint and as ONNX file; read-only."""

import pytest

import bncli
from bncli.jobs.bench import read_target
from bncli.jobs.fold import FoldOptions, fold_checkpoint


@pytest.fixture(scope="session")
def kinds(trained, tmp_path_factory):
    """Path by kind."""
    out = tmp_path_factory.mktemp("kinds") / "out"
    fold_checkpoint(bncli.load(trained.out), out, FoldOptions(exports=("onnx",)))
    return {"trained": trained.out, "folded": out, "onnx": out / "model.onnx"}


@pytest.fixture(scope="session")
def target(trained):
    """The input of the networks."""
    return read_target([trained.out])
