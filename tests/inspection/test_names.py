"""Which layers a pattern means."""

import pytest

from bncli.errors import UsageError
from bncli.inspection.names import common_prefix, match_layers

NAMES = ["net.bn1", "net.layer1.0.bn1", "net.layer1.0.bn2", "net.layer2.0.bn1", "net.[odd]"]


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        (["net.layer1.0.bn2"], ["net.layer1.0.bn2"]),
        (["layer1.0.bn2"], ["net.layer1.0.bn2"]),  # the end of a name
        (["bn1"], ["net.bn1", "net.layer1.0.bn1", "net.layer2.0.bn1"]),
        (["*.bn2"], ["net.layer1.0.bn2"]),
        (["net.layer2*", "net.layer1*1"], ["net.layer1.0.bn1", "net.layer2.0.bn1"]),  # in their order
        (["net.[odd]"], ["net.[odd]"]),  # a name before it is a pattern
        (["*"], NAMES),
    ],
)
def test_patterns(patterns, meant):
    assert list(match_layers(NAMES, patterns)) == meant


def test_a_pattern_that_means_none_names_those_that_are_close():
    with pytest.raises(UsageError, match=r"layer1\.0\.bn3") as error:
        match_layers(NAMES, ["net.layer1.0.bn3"])
    assert "net.layer1.0.bn2" in error.value.remedy
    with pytest.raises(UsageError) as error:
        match_layers(NAMES, ["zzz"])
    assert "net.bn1" in error.value.remedy
    with pytest.raises(UsageError, match="no BN layer"):
        match_layers([], ["*"])


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (NAMES, "net."),
        (["a/b/x", "a/b/y", "a/c"], "a/"),
        (["bn1", "bn2"], ""),
        (["a.b", "a.b.c"], "a."),
        (["net.bn1"], ""),
        ([], ""),
    ],
)
def test_common_prefix(names, prefix):
    assert common_prefix(names) == prefix
