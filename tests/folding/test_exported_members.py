"""The room's public names."""

from __future__ import annotations

import bncli.folding


def test_every_public_name_resolves():
    assert sorted(bncli.folding.__all__) == sorted(
        ["FoldReport", "Folded", "NormReport", "NothingToFoldWarning", "Role", "Verification", "fold", "verify"]
    )
    assert all(hasattr(bncli.folding, name) for name in bncli.folding.__all__)
