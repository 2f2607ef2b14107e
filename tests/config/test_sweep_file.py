"""Laws of ``sweep.toml``: what may be tried, and that every mistake is named with its file, line and key."""

import pytest

from bncli.config.options import by_key
from bncli.config.sweep_file import Choices, Range, grid_size, grid_values, read_sweep_file
from bncli.errors import ConfigError

SPACE = "[space.optimizer]\nlearning_rate = [0.1, 0.2]\n"


def read(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return read_sweep_file(path)


def test_lists_and_ranges_of_any_setting(tmp_path):
    file = read(
        tmp_path,
        "[training]\nepochs = 2\n[space.optimizer]\nlearning_rate = { low = 1e-3, high = 1, log = true }\n"
        "[space.training]\nbatch_size = { low = 16, high = 64, step = 16 }\nema_decay = [0, 0.9]\n"
        "[space.model]\nargs = [{ features = [8] }, { features = [8, 8] }]\n"
        "[space.finetune]\nfreeze = [[], ['Conv_0']]\n",
    )
    found = {option.key: values for option, values in file.space.items()}
    assert found["optimizer.learning_rate"] == Range(0.001, 1.0, log=True)
    assert found["training.batch_size"] == Range(16, 64, step=16, is_whole=True)
    assert grid_values(found["training.batch_size"]) == (16, 32, 48, 64)
    assert found["training.ema_decay"] == Choices((None, 0.9))
    assert found["model.args"].values[1] == {"features": [8, 8]}
    assert found["finetune.freeze"].values == ((), ("Conv_0",))
    assert file.fixed.values == {by_key()["training.epochs"]: 2}
    assert file.trials == 20


def test_a_grid_tries_every_combination(tmp_path):
    file = read(
        tmp_path,
        f"[sweep]\nsampler = 'grid'\n{SPACE}[space.model]\ndropout = {{ low = 0, high = 0.5, step = 0.1 }}\n"
        "[space.training]\nseed = { low = 0, high = 2 }\n",
    )
    assert file.trials == grid_size(file.space) == 2 * 6 * 3


def test_two_files_are_of_one_study_unless_something_but_the_number_of_trials_differs(tmp_path):
    one, more, other = (
        read(tmp_path, text + SPACE).definition()
        for text in ("[sweep]\ntrials = 3\n", "[sweep]\ntrials = 9\n", "[sweep]\nseed = 1\n")
    )
    assert one == more
    assert one != other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sweep\n", "is no TOML"),
        ("", "names no setting to try"),
        ("[sweeep]\n" + SPACE, "line 1: no setting is called sweeep; did you mean sweep?"),
        ("[sweep]\ntrails = 3\n" + SPACE, "line 2: no setting is called sweep.trails; did you mean sweep.trials?"),
        ("[sweep]\nsampler = 'bayes'\n" + SPACE, "line 2: sweep.sampler"),
        ("[sweep]\ntrials = 0\n" + SPACE, "line 2: sweep.trials: Input should be greater than or equal to 1"),
        ("sweep = 3\n" + SPACE, "line 1: sweep must be a table"),
        ("space = 3\n", "line 1: space must be a table"),
        (
            SPACE + "[training]\nepohcs = 3\n",
            "line 4: no setting is called training.epohcs; did you mean training.epochs",
        ),
        (
            "[space.optimizer]\nlearning_rat = [1]\n",
            "line 2: no setting is called optimizer.learning_rat; did you mean optimizer.learning_rate?",
        ),
        ("[space.optimiser]\nlearning_rate = [1]\n", "line 1: no setting is called space.optimiser"),
        ("[space.optimizer]\nlearning_rate = 0.1\n", "line 2: optimizer.learning_rate is one value, not several"),
        ("[space.optimizer]\nlearning_rate = []\n", "line 2: optimizer.learning_rate has no value"),
        ("[space.optimizer]\nlearning_rate = [1, 1.0]\n", "has the same value twice"),
        ("[space.optimizer]\nlearning_rate = [0.1, -1]\n", "line 2: optimizer.learning_rate: Input should be greater"),
        ("[space.optimizer]\nname = ['sgd', 'adam']\n", "line 2: optimizer.name"),
        ("[space.optimizer]\nname = { low = 1, high = 2 }\n", "line 2: optimizer.name is one value"),
        ("[space.training]\nepochs = { low = 1 }\n", "line 2: training.epochs has no high"),
        ("[space.training]\nepochs = { low = 1, hihg = 2 }\n", "line 2: no setting is called training.epochs.hihg"),
        ("[space.training]\nepochs = { low = 3, high = 2 }\n", "line 2: training.epochs: low is not below high"),
        ("[space.training]\nepochs = { low = 1, high = 2, step = 0.5 }\n", "step is no number above 0"),
        ("[space.model]\ndropout = { low = 0, high = 0.5, log = true }\n", "low must be above 0"),
        ("[space.model]\ndropout = { low = 0.1, high = 0.5, log = 1 }\n", "log is neither true nor false"),
        ("[space.model]\ndropout = { low = 0.1, high = 0.5, log = true, step = 1 }\n", "has no step"),
        ("[space.optimizer]\nclip_norm = { low = 0, high = 2 }\n", "low is 0, which is no number of it"),
        ("[optimizer]\nlearning_rate = 1\n" + SPACE, "line 2: optimizer.learning_rate is both fixed and tried"),
        ("[sweep]\nsampler = 'grid'\ntrials = 3\n" + SPACE, "line 3: a grid tries every combination"),
        (
            "[sweep]\nsampler = 'grid'\n[space.model]\ndropout = { low = 0.1, high = 0.5 }\n",
            "line 4: model.dropout: a grid needs a list, or a step",
        ),
        ("[sweep]\nsampler = 'grid'\n[space.training]\nseed = { low = 0, high = 99999 }\n", "100,000 combinations"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "sweep.toml") in caught.value.message
    assert message in caught.value.message
    assert caught.value.remedy
