"""The files that only a folded checkpoint has: its serialized forward pass, and the report of the fold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bncli.checkpoint.directory import (
    FOLD_REPORT,
    FORWARD,
    FREE_SPACE_AND_REPEAT,
    write_config,
    write_file,
)
from bncli.checkpoint.manifest import FILES_MANIFEST, digests_of, first_difference, manifest_text, parse_manifest
from bncli.checkpoint.program import Program, open_program
from bncli.checkpoint.saves import save
from bncli.config.document import CheckpointConfig
from bncli.config.json_types import JSON
from bncli.errors import CheckpointError
from bncli.frameworks.linen import Variables
from bncli.process.files import read_regular

_FOLD_AGAIN = "Fold the original checkpoint again."


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
    save(
        out,
        step,
        variables=variables,
        optimizer={"step": np.int32(step)},
        progress={},
        remedy=FREE_SPACE_AND_REPEAT,
    )
    files = {FORWARD: forward, **exports, FOLD_REPORT: (json.dumps(report, indent=2) + "\n").encode()}
    for name, content in files.items():
        write_file(out / name, content, remedy=FREE_SPACE_AND_REPEAT)
    manifest = manifest_text(digests_of(out, files)).encode()
    write_file(out / FILES_MANIFEST, manifest, remedy=FREE_SPACE_AND_REPEAT)
    write_config(out, config, remedy=FREE_SPACE_AND_REPEAT)


def verify_files(directory: Path, *names: str) -> None:
    """Compare the files beside the saves of a folded checkpoint with their manifest: ``names``, or all of them.

    Raises:
        CheckpointError: a file is missing or changed; the message names it.
    """
    manifest = directory / FILES_MANIFEST
    if not manifest.is_file():
        return  # written before there were manifests
    expected = parse_manifest(read_regular(manifest))
    chosen = names or tuple(expected)
    difference = first_difference(expected, digests_of(directory, chosen), chosen)
    if difference is not None:
        raise CheckpointError(
            f"{directory / difference}: its SHA-256 is not the one in {manifest.name}",
            remedy=_FOLD_AGAIN,
        )


def read_forward(directory: Path, variables: Variables) -> Program:
    """The folded forward pass: (variables, normalized images [B, H, W, C]) -> logits [B, K].

    The very bytes that are compared with the manifest are examined and used; see ``program``.

    Args:
        directory: the folded checkpoint.
        variables: the arrays that the function will be given.

    Raises:
        CheckpointError: the file is missing or damaged, or its program is refused.
    """
    path = directory / FORWARD
    try:
        content = read_regular(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", remedy=_FOLD_AGAIN) from error
    manifest = directory / FILES_MANIFEST
    if manifest.is_file():  # there was none in older versions
        digest = parse_manifest(read_regular(manifest)).get(FORWARD)
        if digest != hashlib.sha256(content).hexdigest():
            raise CheckpointError(
                f"{path} is damaged: its SHA-256 is not the one in {manifest.name}", remedy=_FOLD_AGAIN
            )
    return open_program(content, path=path, variables=variables)
