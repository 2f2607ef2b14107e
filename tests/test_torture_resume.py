"""``scripts/torture_resume.py`` on a small run: kills and a failing disk change nothing."""

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import compile_time
from support.dataset_writers import example_bytes, labelled_images, write_image_folder, write_tfds
from support.framework_nets import write_net
from support.zygote import Zygote

from bncli.data.load import open_contents
from bncli.data.packing import pack

SCRIPT = Path(__file__).parents[1] / "scripts" / "torture_resume.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("torture_resume", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kills", [pytest.param(5, marks=pytest.mark.broad), pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_in_the_bytes_of_an_uninterrupted_one(script, tmp_path, kills):
    lines, zygote = [], Zygote()
    try:
        tally = script.torture(zygote.start, tmp_path, kills=kills, seed=1, show=lines.append)
    finally:
        zygote.close()
    assert tally.differences == [], lines
    assert tally.kills == sum(tally.kills_by_moment.values()) == kills
    assert tally.kills_by_moment["while saving"] > 0, lines


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["linen", "nnx", "equinox", "haiku"])
def test_a_killed_training_of_a_network_of_the_users_ends_in_the_same_bytes(script, framework, tmp_path):
    lines, zygote = [], Zygote(model=write_net(tmp_path, framework))
    try:
        tally = script.torture(zygote.start, tmp_path, kills=5, seed=1, show=lines.append)
    finally:
        zygote.close()
    assert tally.differences == [], lines
    assert tally.kills == 5


@pytest.fixture(params=["packed", "tfds"])
def records(request, tmp_path):
    images = write_image_folder(tmp_path / "images", splits=("train", "val", "test"), per_class=20)
    if request.param == "packed":
        pack(open_contents(str(images)), tmp_path / "packed")
        return tmp_path / "packed"
    splits = {"train": "train", "validation": "val", "test": "test"}
    records = {
        name: [example_bytes(image=content, label=label, id=b"x") for content, label in labelled_images(images, split)]
        for name, split in splits.items()
    }
    return write_tfds(tmp_path / "made" / "1.0.0", records)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_training_that_streams_records_ends_in_the_same_bytes(script, records, workers, tmp_path):
    options = ["--data", str(records), "--stream", "--workers", str(workers), "--model", "mlp", "--epochs", "40"]
    options += ["--batch-size", "8", "--save-every", "3"]

    def start(out, resume, more, env):
        return script.Command(options, out, resume, more, compile_time.children() | env)

    lines = []
    tally = script.torture(start, tmp_path, kills=5, seed=2, show=lines.append)
    assert tally.differences == [], lines
    assert tally.kills == 5
    assert any("saves [" in line and "saves []" not in line for line in lines), lines  # some went on from a save


needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@needs_a_compiler
def test_the_disk_fails_below_its_directory_and_nowhere_else(script, tmp_path):
    (tmp_path / "run").mkdir()
    fault = {"FAULT_PATH": str(tmp_path / "run"), "FAULT_ERRNO": str(errno.ENOSPC)}
    fault |= {"FAULT_ONE_IN": "1", "FAULT_SEED": "0", "LD_PRELOAD": str(script.failing_disk(tmp_path))}

    def written(path):
        command = [sys.executable, "-c", "import sys; open(sys.argv[1], 'wb', 0).write(b'x')", str(path)]
        return subprocess.run(command, env=os.environ | fault, capture_output=True, text=True)

    assert "No space left" in written(tmp_path / "run" / "file").stderr
    assert written(tmp_path / "run.stdout").returncode == written(tmp_path / "runs").returncode == 0


@pytest.mark.broad
@needs_a_compiler
def test_a_run_whose_disk_fails_leaves_no_save_that_is_not_whole(script, tmp_path):
    lines, tally = [], script.Tally()
    zygote = Zygote(preload=script.failing_disk(tmp_path))
    try:
        script.torture_disk(zygote.start, tmp_path, tally, faults=3, seed=4, show=lines.append)
    finally:
        zygote.close()
    assert (tally.corrupt_saves, tally.differences) == (0, []), lines
    assert any("cannot save" in line for line in lines), lines
