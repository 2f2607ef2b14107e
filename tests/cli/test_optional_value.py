"""``--data`` of ``inspect-stats``: with a source as everywhere, and alone as ever, wherever it stands."""

import pytest

from bncli.cli.optional_value import with_value
from cli.conftest import document

FLAGS = {"--history", "--json", "-q", "--quiet", "--data-own"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ckpt --data", "ckpt --data="),
        ("ckpt --data --history", "ckpt --data= --history"),
        ("ckpt --data -q", "ckpt --data= -q"),
        ("--data ckpt", "--data= ckpt"),
        ("--step last --data ckpt", "--step last --data= ckpt"),
        ("--history --data ckpt --quiet", "--history --data= ckpt --quiet"),
        ("ckpt --data digits", "ckpt --data digits"),
        ("--data digits ckpt", "--data digits ckpt"),
        ("--data digits --step last ckpt", "--data digits --step last ckpt"),
        ("--quiet ckpt --data a.npz --json", "--quiet ckpt --data a.npz --json"),
        ("ckpt --data=digits", "ckpt --data=digits"),
        ("--data digits -- ckpt", "--data digits -- ckpt"),
        ("--data -- ckpt", "--data= -- ckpt"),
        ("-- --data", "-- --data"),
        ("ckpt --data-dir --data", "ckpt --data-dir --data="),
        ("", ""),
    ],
)
def test_a_value_is_taken_unless_the_option_stands_alone(words, expected):
    assert with_value(words.split(), flags=FLAGS) == expected.split()


@pytest.mark.broad
def test_every_spelling_measures_the_same(ckpt):
    spellings = (("inspect-stats", "--data", ckpt), ("inspect-stats", ckpt, "--data", "digits"))
    own, named = (document(*words)["data"] for words in spellings)
    assert own == named
    assert own["dataset"] == "digits"
