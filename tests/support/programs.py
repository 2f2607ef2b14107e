"""Programs of StableHLO as files hold them: sound ones, and ones changed on purpose, under checksums that fit."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
from jax.extend.mlir import deserialize_portable_artifact, ir, serialize_portable_artifact
from jax.interpreters.mlir import make_ir_context

from bncli.checkpoint.directory import FORWARD
from bncli.checkpoint.manifest import FILES_MANIFEST, digests_of, manifest_text, parse_manifest
from bncli.frameworks.linen import Variables

# Of StableHLO; every jaxlib that bncli admits reads and writes it.
TARGET = "1.9.0"


def make_program(function: Callable[[Variables, jax.Array], object], variables: Variables) -> bytes:
    """(variables, images [b, 8, 8, 1]) -> whatever ``function`` makes of them, serialized for any b."""
    (batch,) = jax.export.symbolic_shape("b")
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    images = jax.ShapeDtypeStruct((batch, 8, 8, 1), jnp.float32)
    return bytes(jax.export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(shapes, images).serialize())


def edited(program: bytes, change: Callable[[str], str]) -> bytes:
    """The program with its text changed; the text must stay valid."""
    exported = jax.export.deserialize(bytearray(program))
    with make_ir_context() as context:
        text = str(deserialize_portable_artifact(exported.mlir_module_serialized, context))
        assert change(text) != text
        module = serialize_portable_artifact(ir.Module.parse(change(text)), TARGET)
    return bytes(dataclasses.replace(exported, mlir_module_serialized=module).serialize())


def plant(program: bytes, directory: Path) -> Path:
    """Put a program into a folded checkpoint, with its SHA-256 in the manifest; return its path."""
    (directory / FORWARD).write_bytes(program)
    seal_files(directory)
    return directory / FORWARD


def seal_files(directory: Path) -> None:
    """Make the checksums of the files beside the saves of a folded checkpoint anew."""
    manifest = directory / FILES_MANIFEST
    manifest.write_text(manifest_text(digests_of(directory, parse_manifest(manifest.read_bytes()))))
