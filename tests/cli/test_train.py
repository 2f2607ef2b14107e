"""``bncli train``: what it leaves behind, what it refuses, and how a run goes on."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from support.breadth import broad

from bncli import checkpoint
from bncli.training.loop import Trainer
from cli.conftest import TINY, document, invoke, succeed


def test_document_says_what_was_run_and_what_came_of_it(tmp_path):
    finished = invoke("train", "--epochs", 2, "--seed", 3, "--out", tmp_path / "ckpt", "--json", *TINY)
    assert (finished.exit_code, finished.stderr) == (0, ""), finished.output  # --quiet is among the options
    result = json.loads(finished.stdout)
    assert result["schema"] == "bncli.train/1"
    assert [row["epoch"] for row in result["history"]] == [1, 2]
    assert result["epochs_run"] == 2
    assert result["test"]["num_examples"] == 359
    assert 0 <= result["test"]["accuracy"] <= 1
    seconds = result["seconds"]
    assert set(seconds) == {"start", "data", "compile", "train", "validation", "saving", "rest", "total"}
    assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"], abs=1e-6)
    assert set(result["programs"]) == {"compiled", "from_cache"}
    assert all(len(digest) == 64 for digest in result["sha256"].values())
    assert result["config"]["training"]["seed"] == 3
    assert result["dataset"]["name"] == "digits"
    assert "jaxlib" in result["versions"]
    best = max(result["history"], key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert result["best"]["epoch"] == best["epoch"]
    on_disk = [json.loads(line) for line in (tmp_path / "ckpt" / "metrics.jsonl").read_text().splitlines()]
    assert on_disk == result["history"]


@pytest.mark.parametrize(
    "options",
    broad(
        [["--no-bn"], ["--bn-placement", "post"], ["--model", "mlp", "--optimizer", "adamw"]],
        lambda options: "mlp" in options,
    ),
)
def test_variants_train(tmp_path, options):
    small = [] if "mlp" in options else ["--model-arg", "features=[4]"]
    result = document("train", "--epochs", 1, "--out", tmp_path / "ckpt", "--quiet", *small, *options)
    assert result["epochs_run"] == 1
    expected_bn = "--no-bn" not in options
    assert result["config"]["model"]["bn"] is expected_bn


def test_resumed_run_ends_in_the_bytes_of_an_uninterrupted_one(tmp_path):
    schedule = ["--schedule-epochs", 4, *TINY]
    whole = document("train", "--epochs", 4, "--out", tmp_path / "whole", *schedule)
    document("train", "--epochs", 2, "--out", tmp_path / "parts", *schedule)
    parts = document("train", "--epochs", 4, "--resume", "--out", tmp_path / "parts")
    assert parts["sha256"] == whole["sha256"]
    timings = ("seconds", "images_per_second")
    for mine, theirs in zip(parts["history"], whole["history"], strict=True):
        assert {k: v for k, v in mine.items() if k not in timings} == {
            k: v for k, v in theirs.items() if k not in timings
        }


def test_interrupt_saves_and_says_how_to_go_on(tmp_path, monkeypatch):
    original = Trainer.__init__  # as if Ctrl-C came during compilation
    monkeypatch.setattr(Trainer, "__init__", lambda self, **fields: original(self, **fields, stop_code=130))
    result = invoke("train", "--epochs", 1, "--out", tmp_path / "ckpt", *TINY)
    assert result.exit_code == 130
    assert "--resume" in result.stderr
    monkeypatch.undo()
    assert document("train", "--resume", "--quiet", "--out", tmp_path / "ckpt")["epochs_run"] == 1


def test_finished_run_can_be_resumed_to_no_effect(ckpt, tmp_path):
    copy = shutil.copytree(ckpt, tmp_path / "ckpt")
    before = (copy / "metrics.jsonl").read_text()
    result = document("train", "--resume", "--quiet", "--out", copy)
    assert result["epochs_run"] == 3
    assert result["images_per_second"] is None
    assert (copy / "metrics.jsonl").read_text() == before


@pytest.mark.broad
def test_extension_without_a_fixed_schedule_says_that_it_is_stretched(ckpt, tmp_path):
    copy = shutil.copytree(ckpt, tmp_path / "ckpt")
    result = invoke("train", "--resume", "--epochs", 4, "--out", copy)
    assert result.exit_code == 0, result.output
    assert "stretched from 3 to 4 epochs" in " ".join(result.stderr.split())


def test_resumed_run_keeps_its_settings(ckpt):
    result = invoke("train", "--resume", "--learning-rate", 0.3, "--out", ckpt)
    assert result.exit_code == 2
    assert "--learning-rate" in result.stderr


def test_nothing_is_overwritten_silently(ckpt, tmp_path):
    result = invoke("train", "--out", ckpt)
    assert result.exit_code == 1
    assert "--resume" in result.stderr
    assert "--overwrite" in result.stderr
    (tmp_path / "thesis.tex").write_text("years of work")
    result = invoke("train", "--overwrite", "--out", tmp_path)
    assert result.exit_code == 1
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--bn-momentum", "3"], 2, "--bn-momentum"),
        (["--epochs", "0"], 2, "--epochs"),
        (["--bn-placement", "middle"], 2, "middle"),
        (["--model", "resnet19"], 2, "did you mean"),
        (["--model", "resnet20", "--bn-placement", "post"], 2, "--bn-placement"),
        (["--model-arg", "features"], 2, "key=value"),
        (["--data", "cifar11"], 1, "cifar10"),
        (["--model", "no_such_file.py:Net"], 1, "no_such_file.py"),
        (["--resume", "--overwrite"], 2, "exclude"),
        (["--resume"], 1, "no run to resume"),
    ],
)
def test_a_bad_call_is_answered_with_what_is_wrong(tmp_path, options, code, words):
    result = invoke("train", *options, "--out", tmp_path / "ckpt")
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "ckpt").exists()


def test_overwrite_replaces_a_checkpoint_and_progress_goes_to_stderr_the_result_to_stdout(ckpt, tmp_path):
    copy = shutil.copytree(ckpt, tmp_path / "ckpt")
    result = invoke("train", "--epochs", 1, "--overwrite", "--out", copy, *TINY[:-1])
    assert result.exit_code == 0, result.output
    assert len((copy / "metrics.jsonl").read_text().splitlines()) == 1
    assert "1/1*" in result.stderr
    assert "1/1*" not in result.stdout
    assert "test accuracy" in result.stdout


@pytest.mark.broad
@pytest.mark.parametrize(
    ("merged", "quiet"), broad([(False, False), (True, False), (True, True)], lambda case: case == (False, False))
)
def test_each_number_of_an_epoch_stands_once_in_one_place(tmp_path, merged, quiet):
    words = [*TINY[:-1], *(["--quiet"] if quiet else [])]
    command = [sys.executable, "-m", "bncli", "train", "--epochs", "2", "--out", str(tmp_path / "ckpt"), *words]
    errors = subprocess.STDOUT if merged else subprocess.PIPE
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, check=True)
    history = [json.loads(line) for line in (tmp_path / "ckpt" / "metrics.jsonl").read_text().splitlines()]
    for row in history:
        for name in ("train_loss", "val_loss"):
            assert done.stdout.count(f"{row[name]:.4f}") == 1
            assert merged or done.stderr.count(f"{row[name]:.4f}") == 1
    assert "test accuracy" in done.stdout


def test_two_trainings_do_not_share_a_directory(tmp_path):
    out = tmp_path / "ckpt"
    with checkpoint.locked(out):
        refused = invoke("train", "--epochs", 1, "--out", out, *TINY)
    assert refused.exit_code == 1
    assert "is in use: process" in refused.stderr
    assert not out.exists() or list(out.iterdir()) == []
    assert document("train", "--epochs", 1, "--out", out, *TINY)["epochs_run"] == 1


def test_a_run_that_was_killed_before_its_first_save_begins_again(tmp_path):
    whole = document("train", "--epochs", 1, "--out", tmp_path / "whole", *TINY)
    document("train", "--epochs", 1, "--out", tmp_path / "ckpt", *TINY)
    for name in ("steps", "metrics.jsonl", "layers.jsonl"):
        path = tmp_path / "ckpt" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert document("train", "--resume", "--quiet", "--out", tmp_path / "ckpt")["sha256"] == whole["sha256"]


@pytest.mark.parametrize("every", ["0", "-3", "s", "1.5s", "10m"])
def test_save_every_is_steps_or_seconds(tmp_path, every):
    refused = invoke("train", "--save-every", every, "--out", tmp_path / "ckpt")
    assert refused.exit_code == 2
    assert "--save-every" in refused.stderr


def test_a_diverged_run_exits_with_1_and_can_be_read(tmp_path):
    out = tmp_path / "ckpt"
    result = invoke("train", "--learning-rate", 1e30, "--warmup-epochs", 0, "--epochs", 3, "--out", out, *TINY)
    words = " ".join(result.stderr.split())
    assert result.exit_code == 1
    assert "is not finite: the training has diverged" in words
    assert "--on-nan skip or rollback" in words
    assert succeed("eval", out, "--step", "last")


def test_a_recipe_gives_what_the_call_does_not_and_is_shown(tmp_path):
    result = invoke(
        "train", "--epochs", 1, "--out", tmp_path, "--recipe", "cifar10", "--batch-size", 32, *TINY[:-1], "--overwrite"
    )
    assert result.exit_code == 0, result.output
    assert "from the recipe: --learning-rate 0.1 --label-smoothing 0.1 --ema-decay 0.999\n" in result.stderr
    run = json.loads((tmp_path / "config.json").read_text())["run"]
    assert (run["optimizer"]["learning_rate"], run["training"]["batch_size"]) == (0.1, 32)


def test_a_recipe_may_have_arguments_of_the_model(tmp_path):
    result = invoke("train", "--epochs", 1, "--out", tmp_path / "ckpt", "--recipe", "cifar10")
    assert result.exit_code != 0  # digits are too small for its five stages
    assert "at least 32×32 pixels" in " ".join(result.stderr.split())


@pytest.mark.broad
def test_the_users_own_model_and_images(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(20):
            pixels = np.clip(rng.normal(level, 20, (12, 12)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.png")
    (tmp_path / "net.py").write_text(
        "import flax.linen as nn\n"
        "class Net(nn.Module):\n"
        "    num_classes: int\n"
        "    width: int = 4\n"
        "    @nn.compact\n"
        "    def __call__(self, x, training):\n"
        "        x = nn.Conv(self.width, (3, 3), use_bias=False)(x)\n"
        "        x = nn.relu(nn.BatchNorm(use_running_average=not training, momentum=0.5)(x))\n"
        "        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))\n"
    )
    monkeypatch.chdir(tmp_path)
    model = ["--model", "net.py:Net", "--model-arg", "width=8"]
    trained = document("train", "--data", "images", *model, "--epochs", 12, "--batch-size", 16, "--quiet")
    assert trained["test"]["accuracy"] == 1.0
    answer = document("predict", "ckpt", "images/light/0.png")
    assert answer["images"][0]["classes"][0]["name"] == "light"
    assert document("fold", "ckpt", "out")["folded"] == 1
    assert document("eval", "out")["accuracy"] == 1.0
    with (tmp_path / "net.py").open("a") as file:
        file.write("\n# changed\n")
    changed = invoke("eval", "ckpt")
    assert changed.exit_code == 1
    assert "--model" in changed.stderr
    assert succeed("eval", "ckpt", "--model", "net.py:Net")


def test_resuming_does_not_run_code_that_came_with_the_run(ckpt, tmp_path):
    out = shutil.copytree(ckpt, tmp_path / "ckpt")
    trap, file = tmp_path / "was_run", tmp_path / "net.py"
    file.write_text(f"open({str(trap)!r}, 'w').close()\n")
    config = checkpoint.read_config(out)
    model = replace(config.run.model, name=f"{file}:Net", args={})
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    checkpoint.write_config(out, replace(config, run=replace(config.run, model=model), model_sha256=sha256))
    result = invoke("train", "--resume", "--out", out)
    assert result.exit_code == 1
    assert "was not run by you before" in " ".join(result.stderr.split())
    assert not trap.exists()
