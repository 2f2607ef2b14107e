"""Paths of every command that no file system or no library takes: a message, and never an internal error."""

import json
import os
import sys

import pytest
from support.dataset_writers import write_image_folder

from cli.conftest import TINY, document, invoke, succeed

LONG = "x" * 256
COMMANDS = {
    "train --out": ("train", "--out", LONG),
    "train --out, nested": ("train", "--out", f"a/{LONG}/b"),
    "train --data": ("train", "--data", LONG, "--out", "o"),
    "train --data-dir": ("train", "--data", "mnist", "--data-dir", LONG, "--out", "o"),
    "train --config": ("train", "--config", LONG, "--out", "o"),
    "train --model": ("train", "--model", f"{LONG}.py:Net", "--out", "o"),
    "eval": ("eval", LONG),
    "predict": ("predict", LONG, "x.png"),
    "inspect-stats": ("inspect-stats", LONG),
    "fold": ("fold", LONG, "o"),
    "recalibrate": ("recalibrate", LONG, "o"),
    "bench": ("bench", LONG),
    "verify": ("verify", LONG),
    "data list": ("data", "list", "--data-dir", LONG),
    "data fetch": ("data", "fetch", "mnist", "--data-dir", LONG),
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS)
def test_a_name_that_is_too_long_is_named(tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    result = invoke(*argv)
    assert result.exit_code == 1
    assert "too long" in result.output
    assert "remedy: " in result.output
    assert "internal error" not in result.output


@pytest.mark.broad
@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take only UTF-8")
def test_a_data_set_whose_names_are_not_utf8_is_used_by_every_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write_image_folder(
        tmp_path / os.fsdecode(b"s\xe9t"), splits=("train", "val"), classes=("ok", os.fsdecode(b"gr\xf6n"))
    )
    succeed("train", "--data", root, "--epochs", 1, "--out", "ck", *TINY)
    stored = json.loads((tmp_path / "ck" / "config.json").read_bytes())
    assert stored["dataset"]["class_names"] == [r"gr\xf6n", "ok"]
    assert document("eval", "ck")["per_class"][0]["name"] == r"gr\xf6n"
    assert r"gr\xf6n" in succeed("eval", "ck", "--data", root)
    image = root / "val" / os.fsdecode(b"gr\xf6n") / "0.png"
    assert document("predict", "ck", image)["images"][0]["path"].endswith(r"s\xe9t/val/gr\xf6n/0.png")
    assert r"gr\xf6n" in succeed("predict", "ck", image)
    assert invoke("train", "--resume", "--data", root, "--epochs", 1, "--out", "ck", "--quiet").exit_code == 0


@pytest.mark.broad
@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take only UTF-8")
def test_a_model_file_whose_name_is_not_utf8_is_trained_and_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / os.fsdecode(b"d\xff")
    place.mkdir()
    lines = (
        "import flax.linen as nn",
        "class Net(nn.Module):",
        "    num_classes: int",
        "    @nn.compact",
        "    def __call__(self, x, train):",
        "        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x.reshape(len(x), -1)))",
        "        return nn.Dense(self.num_classes)(nn.relu(x))",
    )
    (place / "net.py").write_text("\n".join(lines))
    succeed("train", "--model", f"{place}/net.py:Net", "--epochs", 1, "--out", "ck", "--quiet")
    stored = json.loads((tmp_path / "ck" / "config.json").read_bytes())
    assert stored["run"]["model"]["name"].endswith(r"d\xff/net.py:Net")
    assert document("eval", "ck")["num_examples"] == 359


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take only UTF-8")
def test_an_orbax_directory_whose_name_is_not_utf8_is_refused_by_name(copied, tmp_path):
    (step,) = [path for path in (copied / "steps").iterdir() if path.is_dir()][:1]
    moved = step.rename(tmp_path / os.fsdecode(b"step\xff"))
    result = invoke("inspect-stats", moved)
    assert result.exit_code == 1
    assert r"step\xff: the path is not UTF-8" in result.stderr
