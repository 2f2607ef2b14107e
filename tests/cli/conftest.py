"""The commands in this process, on digits, with a network of a few channels."""

import json

import pytest
from typer.testing import CliRunner

from bncli.cli.app import app

# Without dropout even eight channels learn something in three epochs.
SMALL = ["--model-arg", "features=[8,8,8]", "--dropout", "0", "--quiet"]
# Where the network does not matter: most of the time of a short run goes into compiling its step.
TINY = ["--model", "mlp", "--model-arg", "features=[8]", "--quiet"]


def invoke(*argv):
    """The finished command."""
    return CliRunner().invoke(app, [str(word) for word in argv])


def succeed(*argv):
    """What the command printed on stdout; it must have ended well."""
    result = invoke(*argv)
    assert result.exit_code == 0, result.output
    return result.stdout


def document(*argv):
    """The JSON document of a command, which must be all of its stdout."""
    return json.loads(succeed(*argv, "--json"))


@pytest.fixture(scope="session")
def ckpt(tmp_path_factory):
    """Three epochs on digits, to be read only."""
    out = tmp_path_factory.mktemp("run") / "ckpt"
    succeed("train", "--epochs", 3, "--out", out, *SMALL)
    return out


@pytest.fixture(scope="session")
def folded(ckpt, tmp_path_factory):
    """``ckpt`` without its BN, to be read only."""
    out = tmp_path_factory.mktemp("run") / "out"
    succeed("fold", ckpt, out)
    return out
