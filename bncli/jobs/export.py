"""The files that ``bncli fold --export`` adds to a folded checkpoint for other programs.

Each format makes the file's content, and the network that a program would run from that content, so that the same
proof covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
import jax.export
import numpy as np

from bncli.checkpoint.onnx_file import NEEDS_EXTRA, OnnxNetwork
from bncli.config import settings as config_module
from bncli.config.choices import ExportFormat
from bncli.config.settings import CheckpointConfig
from bncli.errors import FoldError
from bncli.folding import Folded, Verification
from bncli.folding.export import stablehlo

Network = Callable[[Any], Any]


@dataclass(frozen=True)
class Export:
    """One file for another program.

    Attributes:
        format: as the option calls it.
        content: of the file.
        network: normalised images -> logits, computed from the content; None for a format that holds arrays only.
    """

    format: ExportFormat
    content: bytes
    network: Network | None

    @property
    def file(self) -> str:
        """Its name beside ``config.json``."""
        return f"model.{self.format}"


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was proved.

    Attributes:
        format: as the option calls it.
        file: relative to the checkpoint.
        size: in bytes.
        verification: its logits beside the original network's; None for a format that holds arrays only.
    """

    format: ExportFormat
    file: str
    size: int
    verification: Verification | None


@dataclass(frozen=True)
class Source:
    """What exports are made of.

    Attributes:
        folded: the network.
        forward: it as a program (variables, images) -> logits.
        images: shape [b, H, W, C] and dtype of its input, b a symbol.
        config: the folded checkpoint's, for formats that can carry it.
    """

    folded: Folded
    forward: jax.export.Exported
    images: jax.ShapeDtypeStruct
    config: CheckpointConfig


def check_installed(export_format: ExportFormat) -> None:
    """Raises FoldError where the libraries of a format are missing: before the work, not after it."""
    for library in ("onnx", "onnxruntime") if export_format == "onnx" else ():
        if find_spec(library) is None:
            raise FoldError(f"--export onnx needs {library}, which is not here", remedy=NEEDS_EXTRA)


def make_export(export_format: ExportFormat, source: Source) -> Export:
    """The file of one format.

    Raises:
        FoldError: the network has an operation that the format has no spelling for.
    """
    content, network = MAKERS[export_format](source)
    return Export(export_format, content, network)


def _stablehlo(source: Source) -> tuple[bytes, Network]:
    program = stablehlo.with_variables(source.forward, source.folded.variables)
    content = bytes(program.serialize())
    return content, jax.jit(jax.export.deserialize(bytearray(content)).call)


def _onnx(source: Source) -> tuple[bytes, Network]:
    from bncli.folding.export.onnx import to_onnx

    metadata = {config_module.ONNX_KEY: config_module.to_json(source.config)}
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
