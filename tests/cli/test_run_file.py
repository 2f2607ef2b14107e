"""``bncli train --config run.toml`` and ``--print-config``: the same run by file and by options."""

import tomllib

from cli.conftest import TINY, document, invoke, succeed

ASKED = ["--seed", 3, "--epochs", 1, "--optimizer", "adamw", "--no-augment", "--val-fraction", 0.2]


def test_a_printed_file_trains_the_same_run(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(succeed("train", "--print-config", *ASKED, *TINY))
    assert not (tmp_path / "ckpt").exists()
    by_options = document("train", "--out", tmp_path / "options", *ASKED, *TINY)
    by_file = document("train", "--out", tmp_path / "file", "--config", path, "--quiet")
    assert by_file["sha256"] == by_options["sha256"]
    assert by_file["config"] == by_options["config"]


def test_options_win_over_the_file_and_the_file_over_the_recipe(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[data]\nsource = "cifar10"\n[training]\nbatch_size = 32\nseed = 5\n')
    printed = tomllib.loads(succeed("train", "--print-config", "--config", path, "--seed", 6))
    assert printed["training"]["seed"] == 6  # the command line
    assert printed["training"]["batch_size"] == 32  # the file
    assert printed["optimizer"]["label_smoothing"] == 0.1  # the recipe
    assert printed["optimizer"]["momentum"] == 0.9  # the default
    without = tomllib.loads(succeed("train", "--print-config", "--config", path, "--recipe", "none"))
    assert without["optimizer"]["label_smoothing"] == 0.0


def test_the_file_may_name_the_recipe(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('recipe = "cifar10"\n')
    assert tomllib.loads(succeed("train", "--print-config", "--config", path))["training"]["batch_size"] == 128


def test_a_printed_file_is_complete(tmp_path):
    """Printed again, it says the same: no recipe is laid over it."""
    path = tmp_path / "run.toml"
    path.write_text(succeed("train", "--print-config", "--data", "cifar10", "--clip-norm", 0, "--no-bn"))
    assert succeed("train", "--print-config", "--config", path) == path.read_text()


def test_a_mistake_in_the_file_ends_with_1_and_one_in_the_options_with_2(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[training]\nepohcs = 3\n")
    result = invoke("train", "--config", path, "--out", tmp_path / "ckpt")
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert "training.epochs" in result.stderr
    assert invoke("train", "--momentum", 2).exit_code == 2


def test_a_resumed_run_takes_from_the_file_what_it_may_change(ckpt, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[training]\nepochs = 9\nkeep = 3\n")
    printed = tomllib.loads(succeed("train", "--resume", "--out", ckpt, "--config", path, "--print-config", "--quiet"))
    assert (printed["training"]["epochs"], printed["training"]["keep"]) == (9, 3)
    path.write_text("[training]\nseed = 9\n")
    result = invoke("train", "--resume", "--out", ckpt, "--config", path)
    assert result.exit_code == 2
    assert "--seed: this run has 0, and keeps it" in result.stderr
