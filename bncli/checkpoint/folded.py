"""What only a folded checkpoint has: its forward pass as a serialised function, and the report of the fold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bncli.checkpoint.directory import FILES_MANIFEST, FOLD_REPORT, FORWARD, write_atomically, write_config
from bncli.checkpoint.manifest import digests_of, first_difference, manifest_text, parse_manifest
from bncli.checkpoint.saves import save
from bncli.config.document import CheckpointConfig
from bncli.errors import CheckpointError
from bncli.frameworks.linen import Variables


def write_folded(
    out: Path,
    config: CheckpointConfig,
    *,
    step: int,
    variables: Variables,
    forward: bytes,
    exports: Mapping[str, bytes],
    report: Mapping[str, Any],
) -> None:
    """Writes a folded checkpoint into the prepared directory ``out``: ``config.json`` last, so it is whole or none.

    Args:
        out: the directory.
        config: with ``folded_from``.
        step: of the save it was folded from.
        variables: the folded function's arrays.
        forward: the serialised function, (variables, images [b, H, W, C]) -> logits, b symbolic.
        exports: file name -> content, for other programs.
        report: the ``bncli.fold/1`` document.
    """
    save(out, step, variables=variables, optimizer={"step": np.int32(step)}, progress={})
    files = {FORWARD: forward, **exports, FOLD_REPORT: (json.dumps(report, indent=2) + "\n").encode()}
    for name, content in files.items():
        write_atomically(out / name, content)
    write_atomically(out / FILES_MANIFEST, manifest_text(digests_of(out, files)).encode())
    write_config(out, config)


def verify_files(directory: Path, *names: str) -> None:
    """Compares the files beside the saves of a folded checkpoint with their manifest: ``names``, or all of them.

    Raises:
        CheckpointError: a file is missing or changed; names it.
    """
    manifest = directory / FILES_MANIFEST
    if not manifest.is_file():
        return  # written before there was one
    expected = parse_manifest(manifest.read_bytes())
    chosen = names or tuple(expected)
    difference = first_difference(expected, digests_of(directory, chosen), chosen)
    if difference is not None:
        raise CheckpointError(
            f"{directory / difference}: its SHA-256 is not that of {manifest.name}",
            remedy="Fold the original checkpoint again.",
        )


def read_forward(directory: Path) -> Callable[[Variables, jax.Array], jax.Array]:
    """The folded forward pass: (variables, normalised images [B, H, W, C]) -> logits [B, K].

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    import jax.export

    verify_files(directory, FORWARD)
    try:
        return jax.export.deserialize(bytearray((directory / FORWARD).read_bytes())).call
    except Exception as error:
        raise CheckpointError(
            f"cannot read {directory / FORWARD}: {error}", remedy="Fold the original checkpoint again."
        ) from error
