"""ε and momentum: the file's own, else the user's, else the framework's default; each assumption is a note."""

import math

import numpy as np
import pytest

from bncli.errors import CheckpointError, UsageError
from bncli.inspection.readers.arrays import in_memory
from bncli.inspection.readers.conventions import CONVENTIONS, FLAX, KERAS, PYTORCH
from bncli.inspection.readers.grouping import Found
from bncli.inspection.readers.settings import Asked, non_negative, settle

MEAN, VAR = in_memory({"mean": np.zeros(2), "var": np.ones(2)}).values()


def layer(convention, **settings):
    return Found(place=(), name=("bn",), convention=convention, mean=MEAN, var=VAR, **settings)


@pytest.mark.parametrize(
    ("own", "asked", "expected"),
    [(0.25, 0.5, 0.25), (None, 0.5, 0.5), (None, None, PYTORCH.epsilon), (0.0, 0.5, 0.0), (None, 0.0, 0.0)],
)
def test_the_file_comes_before_the_user_and_the_user_before_the_default(own, asked, expected):
    (settled,), _ = settle([layer(PYTORCH, epsilon=own, momentum=0.5)], Asked(epsilon=asked))
    assert settled.epsilon == expected


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda convention: convention.title)
def test_what_is_assumed_is_said_with_its_option_and_nothing_else(convention):
    _, notes = settle([layer(convention)], Asked())
    (assumed,) = [note for note in notes if "assumed" in note]
    assert f"ε = {convention.epsilon:g}" in assumed
    assert "--epsilon" in assumed
    assert ("--momentum" in assumed) == (convention.momentum is not None)
    _, notes = settle([layer(convention)], Asked(epsilon=1e-3, momentum=0.5))
    assert not any("assumed" in note for note in notes)
    assert set(notes) == ({convention.variance} if convention.variance else set())


def test_layers_of_two_frameworks_take_each_its_own_default():
    settled, notes = settle([layer(FLAX), layer(KERAS)], Asked())
    assert [one.epsilon for one in settled] == [FLAX.epsilon, KERAS.epsilon]
    assert len(notes) == 2


def test_where_some_layers_say_it_the_others_are_counted():
    _, notes = settle([layer(KERAS, epsilon=1e-3, momentum=0.9), layer(KERAS)], Asked())
    assert any("for 1 of 2 layers" in note for note in notes)


def test_an_option_that_changes_nothing_is_said():
    _, notes = settle([layer(FLAX, epsilon=1e-3, momentum=0.9)], Asked(epsilon=1.0))
    assert notes == ("epsilon 1 is ignored: the checkpoint stores its own",)


@pytest.mark.parametrize(
    "settings",
    [{"epsilon": -1e-9}, {"epsilon": math.nan}, {"epsilon": math.inf}, {"momentum": 1.5}, {"momentum": math.nan}],
)
def test_a_setting_out_of_range_is_refused(settings):
    with pytest.raises(UsageError, match=next(iter(settings))) as caught:
        Asked(**settings)
    assert caught.value.remedy


@pytest.mark.parametrize("value", ["1e-3", -1.0, math.nan, 10**400, True, [1e-3], {}])
def test_what_a_file_says_must_be_a_number(value):
    with pytest.raises(CheckpointError, match="epsilon of bn is"):
        non_negative(value, "epsilon of bn")
    assert non_negative(None, "epsilon of bn") is None
    assert non_negative(1, "epsilon of bn") == 1.0
