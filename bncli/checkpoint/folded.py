"""The files that only a folded checkpoint has: its serialized forward pass, and the report of the fold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from bncli.checkpoint.directory import FILES_MANIFEST, FOLD_REPORT, FORWARD, write_atomically, write_config
from bncli.checkpoint.manifest import digests_of, first_difference, manifest_text, parse_manifest
from bncli.checkpoint.saves import save
from bncli.config.document import CheckpointConfig
from bncli.config.json_types import JSON
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
    report: Mapping[str, JSON],
) -> None:
    """Write a folded checkpoint into the prepared directory ``out``, ``config.json`` last: without it there is none.

    Args:
        out: the directory.
        config: a configuration with ``folded_from``.
        step: the step of the save that was folded.
        variables: arrays of the folded function.
        forward: the serialized function (variables, images [b, H, W, C]) -> logits, where b is a symbol.
        exports: file name -> content of the files for other programs.
        report: the ``bncli.fold/1`` document.
    """
    save(out, step, variables=variables, optimizer={"step": np.int32(step)}, progress={})
    files = {FORWARD: forward, **exports, FOLD_REPORT: (json.dumps(report, indent=2) + "\n").encode()}
    for name, content in files.items():
        write_atomically(out / name, content)
    write_atomically(out / FILES_MANIFEST, manifest_text(digests_of(out, files)).encode())
    write_config(out, config)


def verify_files(directory: Path, *names: str) -> None:
    """Compare the files beside the saves of a folded checkpoint with their manifest: ``names``, or all of them.

    Raises:
        CheckpointError: a file is missing or changed; the message names it.
    """
    manifest = directory / FILES_MANIFEST
    if not manifest.is_file():
        return  # written before there were manifests
    expected = parse_manifest(manifest.read_bytes())
    chosen = names or tuple(expected)
    difference = first_difference(expected, digests_of(directory, chosen), chosen)
    if difference is not None:
        raise CheckpointError(
            f"{directory / difference}: its SHA-256 is not the one in {manifest.name}",
            remedy="Fold the original checkpoint again.",
        )


def read_forward(directory: Path) -> Callable[[Variables, jax.Array], jax.Array]:
    """The folded forward pass: (variables, normalized images [B, H, W, C]) -> logits [B, K].

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
