"""What became of each BN layer."""

from __future__ import annotations

from bncli.folding import FoldReport, NormReport
from bncli.folding.report import merged

FOLDED = NormReport("bn", "folded", "backward", ("a",), None)
AGAIN = NormReport("bn", "folded", "forward", ("b", "a"), None)
KEPT = NormReport("bn", "kept", None, (), "a ReLU stands in the way")


def test_a_layer_used_twice_is_folded_only_if_both_uses_are():
    assert merged([FOLDED, KEPT]) == KEPT
    assert merged([FOLDED, AGAIN]) == NormReport("bn", "folded", "backward", ("a", "b"), None)


def test_counts():
    report = FoldReport((FOLDED, KEPT))
    assert (report.folded, report.kept) == (1, 1)
