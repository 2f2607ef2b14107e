"""An exported ``model.onnx``, which the commands accept as a checkpoint; onnxruntime computes its logits.

The only module that imports onnxruntime. Nothing outside the file is read: onnxruntime gets bytes, and refuses external
data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint.manifest import FILES_MANIFEST, parse_manifest
from bncli.config import document
from bncli.config.document import CheckpointConfig
from bncli.errors import CheckpointError
from bncli.process.files import read_regular

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_FOLD_AGAIN = "Fold the original checkpoint again."
NEEDS_EXTRA = "pip install 'bncli[onnx]'"


@dataclass(frozen=True, eq=False)  # jit requires a hashable object
class OnnxNetwork:
    """An ONNX model as a network.

    Attributes:
        session: onnxruntime's session, on the CPU.
        metadata: the model's custom metadata.
    """

    session: InferenceSession
    metadata: Mapping[str, str]

    @classmethod
    def from_bytes(cls, content: bytes) -> OnnxNetwork:
        """The network of a serialized model.

        Raises:
            CheckpointError: onnxruntime is not installed, or cannot read the model.
        """
        try:
            import onnxruntime
        except ImportError:
            raise CheckpointError("needs onnxruntime, which is not installed", remedy=NEEDS_EXTRA) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        # Otherwise its threads spin for milliseconds after each call. On 2 cores a following JAX call at batch 1 then
        # took 3.9 ms instead of 1.2 ms. The call of onnxruntime itself takes the same time.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            metadata = dict(session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # its exceptions have no common class of their own; and bytes that are no text
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            message = f"is not a checkpoint directory, and no ONNX model that onnxruntime can read: {reason}"
            raise CheckpointError(message) from None
        return cls(session, metadata)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits [B, K] of normalized images [B, H, W, C]."""
        (model_input,) = self.session.get_inputs()
        dtype = np.float16 if model_input.type == "tensor(float16)" else np.float32
        logits: np.ndarray = self.session.run(None, {model_input.name: np.asarray(images).astype(dtype, copy=False)})[0]
        return logits

    def __call__(self, variables: object, images: jax.Array) -> jax.Array:
        """Logits inside a JAX program; ``variables`` are ignored, since the model has its own."""
        num_classes = self.session.get_outputs()[0].shape[1]
        spec = jax.ShapeDtypeStruct((images.shape[0], num_classes), jnp.float32)
        logits: jax.Array = jax.pure_callback(lambda x: self.run(x).astype(np.float32), spec, images)
        return logits


def read_onnx(path: Path) -> tuple[CheckpointConfig, OnnxNetwork]:
    """The configuration and the network of a model that ``bncli fold --export onnx`` has written.

    Raises:
        CheckpointError: the file is not such a model; the message names it.
    """
    try:
        content = read_regular(path)
        _verify(path, content)
        network = OnnxNetwork.from_bytes(content)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except CheckpointError as error:
        name_another = "Name a directory written by `bncli train`, or a model.onnx by `bncli fold --export onnx`."
        remedy = error.remedy or name_another
        raise CheckpointError(f"{path} {error.message}", remedy=remedy) from None
    if document.ONNX_KEY not in network.metadata:
        raise CheckpointError(
            f"{path} was not written by bncli: its metadata do not describe the preprocessing of images",
            remedy="Export it again with `bncli fold --export onnx`.",
        )
    config = document.from_json(network.metadata[document.ONNX_KEY], path=path)
    _require_logits(network, path, config.preprocessing.image_shape)
    return config, network


def _require_logits(network: OnnxNetwork, path: Path, image_shape: tuple[int, int, int]) -> None:
    """Raise CheckpointError unless the model makes logits of images of this shape, as far as it declares both."""
    try:
        inputs = [list(model_input.shape) for model_input in network.session.get_inputs()]
        output = list(network.session.get_outputs()[0].shape)
    except Exception as error:  # names that are no text
        raise CheckpointError(f"{path} is damaged: {error}", remedy=_FOLD_AGAIN) from None
    if [shape[1:] for shape in inputs] != [list(image_shape)] or len(output) != 2 or not isinstance(output[1], int):
        raise CheckpointError(
            f"{path} makes {output} of {inputs}, not logits [B, K] of images [B, H, W, C] with [H, W, C] = "
            f"{list(image_shape)}",
            remedy=_FOLD_AGAIN,
        )


def _verify(path: Path, content: bytes) -> None:
    """Raise CheckpointError if the manifest of the folded checkpoint that the file lies in has another SHA-256."""
    manifest = path.with_name(FILES_MANIFEST)
    expected = parse_manifest(read_regular(manifest)).get(path.name) if manifest.is_file() else None
    if expected not in (None, hashlib.sha256(content).hexdigest()):
        raise CheckpointError(f"is damaged: its SHA-256 is not the one in {manifest.name}", remedy=_FOLD_AGAIN)
