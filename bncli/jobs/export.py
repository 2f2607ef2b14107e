"""The files that ``bncli fold --export`` adds to a folded checkpoint for other programs.

Each format makes the content of a file, and the network that a program would run from that content, so the same
verification covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeAlias

import jax
import jax.export
import numpy as np

from bncli.checkpoint.onnx_file import NEEDS_EXTRA, OnnxNetwork
from bncli.config import document
from bncli.config.choices import ExportFormat
from bncli.config.document import CheckpointConfig
from bncli.errors import FoldError
from bncli.folding import Folded, Verification
from bncli.folding.export import stablehlo
from bncli.folding.prune.prune import PrunedNetwork

Network: TypeAlias = Callable[[jax.Array], jax.Array | np.ndarray]  # normalized images [B, H, W, C] -> logits [B, K]


@dataclass(frozen=True)
class Export:
    """One file for another program.

    Attributes:
        format: the option's name for it.
        content: content of the file.
        network: normalized images -> logits, computed from the content; None for a format that holds only arrays.
    """

    format: ExportFormat
    content: bytes
    network: Network | None

    @property
    def file(self) -> str:
        """The name of the file, which lies beside ``config.json``."""
        return f"model.{self.format}"


@dataclass(frozen=True)
class ExportReport:
    """A written file and its verification.

    Attributes:
        format: the option's name for it.
        file: relative to the checkpoint.
        size: in bytes.
        verification: comparison of its logits with the original's; None for a format that holds only arrays.
    """

    format: ExportFormat
    file: str
    size: int
    verification: Verification | None


@dataclass(frozen=True)
class Source:
    """The input of an export.

    Attributes:
        folded: the folded network.
        forward: the network as a program (variables, images) -> logits.
        images: shape [b, H, W, C] and dtype of its input, where b is a symbol.
        config: the folded checkpoint's configuration, for formats that can carry it.
    """

    folded: Folded | PrunedNetwork
    forward: jax.export.Exported
    images: jax.ShapeDtypeStruct
    config: CheckpointConfig


def check_installed(export_format: ExportFormat) -> None:
    """Raise FoldError if the libraries of a format are missing, before any work is done."""
    for library in ("onnx", "onnxruntime") if export_format == "onnx" else ():
        if find_spec(library) is None:
            raise FoldError(f"--export onnx needs {library}, which is not installed", remedy=NEEDS_EXTRA)


def make_export(export_format: ExportFormat, source: Source) -> Export:
    """The file of one format.

    Raises:
        FoldError: the format cannot express one of the network's operations.
    """
    content, network = MAKERS[export_format](source)
    return Export(export_format, content, network)


def _stablehlo(source: Source) -> tuple[bytes, Network]:
    program = stablehlo.with_variables(source.forward, source.folded.variables)
    content = bytes(program.serialize())
    return content, jax.jit(jax.export.deserialize(bytearray(content)).call)


def _onnx(source: Source) -> tuple[bytes, Network]:
    from bncli.folding.export.onnx import to_onnx

    metadata = {document.ONNX_KEY: document.to_json(source.config)}
    model = to_onnx(source.folded.apply, source.folded.variables, source.images, metadata=metadata)
    content = model.SerializeToString()
    network = OnnxNetwork.from_bytes(content)
    return content, lambda images: network.run(np.asarray(images))


def _safetensors(source: Source) -> tuple[bytes, None]:
    from bncli.folding.export.safetensors import to_safetensors

    return to_safetensors(source.folded.variables, {"format": "bncli", "layout": "NHWC, HWIO"}), None


MAKERS: Mapping[ExportFormat, Callable[[Source], tuple[bytes, Network | None]]] = {
    "onnx": _onnx,
    "safetensors": _safetensors,
    "stablehlo": _stablehlo,
}
