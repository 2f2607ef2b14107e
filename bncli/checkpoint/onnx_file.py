"""An exported ``model.onnx``, which the commands take in place of a checkpoint: onnxruntime computes.

The only importer of onnxruntime. Nothing outside the file is read: external data are refused by onnxruntime, because
it is given bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bncli.config import document
from bncli.config.document import CheckpointConfig
from bncli.errors import CheckpointError

NEEDS_EXTRA = "pip install 'bncli[onnx]'"


@dataclass(frozen=True, eq=False)  # jit wants it hashable
class OnnxNetwork:
    """An ONNX model as a network.

    Attributes:
        session: onnxruntime's, on the CPU.
        metadata: the model's own.
    """

    session: Any
    metadata: Mapping[str, str]

    @classmethod
    def from_bytes(cls, content: bytes) -> OnnxNetwork:
        """The network of a serialised model.

        Raises:
            CheckpointError: onnxruntime is not installed, or cannot read the model.
        """
        try:
            import onnxruntime
        except ImportError:
            raise CheckpointError("needs onnxruntime, which is not here", remedy=NEEDS_EXTRA) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        # Else its threads spin for milliseconds after each call: on 2 cores a call of JAX at batch 1 that follows took
        # 3.9 instead of 1.2 ms. Its own time is the same.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class of their own
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"is no checkpoint directory, and no ONNX model to onnxruntime: {reason}") from None
        return cls(session, dict(session.get_modelmeta().custom_metadata_map))

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits [B, K] of normalised images [B, H, W, C]."""
        (given,) = self.session.get_inputs()
        dtype = np.float16 if given.type == "tensor(float16)" else np.float32
        return self.session.run(None, {given.name: np.asarray(images).astype(dtype, copy=False)})[0]

    def __call__(self, variables: object, images: jax.Array) -> jax.Array:
        """The same inside a JAX program; ``variables`` are not used, the model has its own."""
        num_classes = self.session.get_outputs()[0].shape[1]
        logits = jax.ShapeDtypeStruct((images.shape[0], num_classes), jnp.float32)
        return jax.pure_callback(lambda x: self.run(x).astype(np.float32), logits, images)


def read_onnx(path: Path) -> tuple[CheckpointConfig, OnnxNetwork]:
    """The settings and the network of a model that ``bncli fold --export onnx`` has written.

    Raises:
        CheckpointError: the file is no such model; names it.
    """
    try:
        network = OnnxNetwork.from_bytes(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except CheckpointError as error:
        name_another = "Name a directory written by `bncli train`, or a model.onnx by `bncli fold --export onnx`."
        remedy = error.remedy or name_another
        raise CheckpointError(f"{path} {error.message}", remedy=remedy) from None
    if document.ONNX_KEY not in network.metadata:
        raise CheckpointError(
            f"{path} was not written by bncli: its metadata do not say how images are prepared for it",
            remedy="Export it anew with `bncli fold --export onnx`.",
        )
    return document.from_json(network.metadata[document.ONNX_KEY], path=path), network
