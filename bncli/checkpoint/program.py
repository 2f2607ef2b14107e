"""The forward pass of a folded checkpoint: a program from a file, checked before this process runs it.

A file of StableHLO may come from a stranger. jaxlib parses it in C++, where damaged bytes have crashed and hung it, and
a ``custom_call`` in it calls any function that is registered in this process. So the bytes are first given to a process
of their own, under limits::

    parsed            limits on time and memory; a crash is an error
    compared          every operation with ALLOWED; others are refused by name
    tried             compiled and run once on zeros, since a program of allowed operations can still crash XLA

The verdict holds for these very bytes, so it is remembered by their SHA-256, and the next command does not wait.
"""

from __future__ import annotations

import base64
import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from bncli.config.json_types import JSON
from bncli.errors import CheckpointError
from bncli.frameworks.linen import Variables
from bncli.process import cache
from bncli.process.child import Answer, ChildError, End, ask_child, limit_this_process
from bncli.process.hardware import versions

if TYPE_CHECKING:
    import jax.export
    from jax.extend.mlir.ir import Operation

Program = Callable[[Variables, jax.Array], jax.Array]

# StableHLO 1 without what leaves the program: custom calls (but for CUSTOM_CALLS), infeed, outfeed, send and recv,
# collectives, and partition and replica numbers.
_STABLEHLO = """
    abs add and atan2 batch_norm_inference bitcast_convert broadcast_in_dim case cbrt ceil cholesky clamp compare
    complex composite concatenate constant convert convolution cosine count_leading_zeros divide dot_general
    dynamic_broadcast_in_dim dynamic_conv dynamic_gather dynamic_iota dynamic_pad dynamic_reshape dynamic_slice
    dynamic_update_slice exponential exponential_minus_one fft floor gather get_dimension_size get_tuple_element if
    imag iota is_finite log log_plus_one logistic map maximum minimum multiply negate not optimization_barrier or pad
    popcnt power real real_dynamic_slice reduce reduce_precision reduce_window remainder reshape return reverse
    rng_bit_generator round_nearest_afz round_nearest_even rsqrt scatter select select_and_scatter shift_left
    shift_right_arithmetic shift_right_logical sign sine slice sort sqrt subtract tan tanh transpose triangular_solve
    tuple uniform_dequantize uniform_quantize while xor
"""
ALLOWED = frozenset(
    ["builtin.module", "func.call", "func.func", "func.return", *(f"stablehlo.{name}" for name in _STABLEHLO.split())]
)
CUSTOM_CALL = "stablehlo.custom_call"
# Calls that XLA replaces when it compiles, so that they reach no function of this process: the condition on the batch
# size, operations whose shapes depend on it (StableHLO's shape refinement), and the approximate top k of a TPU.
CUSTOM_CALLS = (
    "shape_assertion",
    "ApproxTopK",
    "stablehlo.dynamic_approx_top_k",
    "stablehlo.dynamic_reduce_window",
    "stablehlo.dynamic_rng_bit_generator",
    "stablehlo.dynamic_top_k",
)

# For parsing: of any file, and for each byte of it.
PARSE_SECONDS, BYTES_PER_SECOND = 5.0, 2e6
PARSE_MEMORY, MEMORY_PER_BYTE = 1 << 30, 32
# For compiling and running once; ResNet-50 on 224×224 pixels takes 15 s and 1 GiB.
TRIAL_SECONDS, TRIAL_MEMORY = 90.0, 4 << 30
TRIAL_BATCH = 2
# Ends a process that waits forever, which takes no CPU time.
WALL_SECONDS = 600.0

_FOLDER = "programs"
_SERVE = "bncli.checkpoint.program:serve"
# The CPU, whatever the machine has; one memory arena, because arenas count as memory before they are used.
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false", "MALLOC_ARENA_MAX": "2"}
_REMEDY = "Fold the original checkpoint again."


def open_program(content: bytes, *, path: Path, variables: Variables) -> Program:
    """The function (variables, normalized images [B, H, W, C]) -> logits [B, K] in a serialized program.

    Args:
        content: the file's bytes.
        path: the file, for messages.
        variables: the arrays that the program will be given; they bound the memory of its trial.

    Raises:
        CheckpointError: the bytes are no such program, or it has an operation that is not allowed.
    """
    if not cache.is_remembered(_FOLDER, _key(content)):
        _examine(content, path, sum(leaf.nbytes for leaf in jax.tree.leaves(variables)))
        cache.remember(_FOLDER, _key(content))
    try:
        return _deserialized(content).call
    except Exception as error:  # the exceptions of flatbuffers, jax.export and MLIR
        raise _damaged(path, error) from error


def trust_program(content: bytes) -> None:
    """Remember a program that bncli has just made and run, so that it is not examined again.

    Raises:
        CheckpointError: it has an operation that is not allowed, and so could not be read again.
    """
    _check_operations(_deserialized(content))
    cache.remember(_FOLDER, _key(content))


def _key(content: bytes) -> str:
    """Everything that the verdict depends on: the bytes, the rules, and the library that parses them."""
    installed = versions()
    parts = (hashlib.sha256(content).hexdigest(), *(installed[name] for name in ("bncli", "jax", "jaxlib")))
    return hashlib.sha256("  ".join(parts).encode()).hexdigest()


def _examine(content: bytes, path: Path, num_bytes: int) -> None:
    """Let another process parse, compare and try the program.

    Raises:
        CheckpointError: it is refused, or the process ended without a verdict.
    """
    request = {"content": base64.b64encode(content).decode(), "num_bytes": num_bytes}
    try:
        ask_child(_SERVE, request, seconds=WALL_SECONDS, environment=_ENVIRONMENT)
    except ChildError as error:
        raise CheckpointError(f"{path} is damaged: {_complaint(error.end)}", remedy=_REMEDY) from None
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error.message}", remedy=_REMEDY) from error


def _complaint(end: End) -> str:
    """The sentence about a process that gave no answer."""
    if end.code is None:
        return f"it could not be tried in {WALL_SECONDS:g} s"
    if end.signal == getattr(signal, "SIGXCPU", 0):
        return "reading or running it once takes longer than for any network of its size"
    if end.signal is not None:
        return f"the library that reads it crashed in a process of its own ({signal.Signals(end.signal).name})"
    last = (end.printed.strip().splitlines() or [f"exit code {end.code}"])[-1]
    return f"the library that reads it ended its process: {last[:300]}"


# In the other process.


def serve(request: JSON) -> Iterator[Answer]:
    """Parse, compare and try a program; no error is the verdict that it may run.

    Raises:
        CheckpointError: the reason not to run it; the message goes after the file's name.
    """
    content = base64.b64decode(request["content"])
    jax.devices()  # start the backend, whose threads and heap do not count
    limit_this_process(
        cpu_seconds=PARSE_SECONDS + len(content) / BYTES_PER_SECOND,
        memory=PARSE_MEMORY + MEMORY_PER_BYTE * len(content),
    )
    try:
        exported = _deserialized(content)
        _check_operations(exported)
        limit_this_process(cpu_seconds=TRIAL_SECONDS, memory=TRIAL_MEMORY + 4 * int(request["num_bytes"]))
        _try(exported)
    except CheckpointError:
        raise
    except MemoryError:
        raise CheckpointError("is damaged: it takes more memory than any network of its size") from None
    except Exception as error:  # the exceptions of flatbuffers, jax.export, MLIR and XLA
        raise CheckpointError(f"is damaged: {_reason(error)}") from error
    yield Answer({})


def _deserialized(content: bytes) -> jax.export.Exported:
    import jax.export

    return jax.export.deserialize(bytearray(content))


def _check_operations(exported: jax.export.Exported) -> None:
    """Raise CheckpointError if the program has an operation beside the allowed ones, or acts on the world."""
    from jax.extend.mlir import deserialize_portable_artifact
    from jax.extend.mlir.ir import StringAttr
    from jax.interpreters.mlir import make_ir_context

    if exported.ordered_effects or exported.unordered_effects:
        raise CheckpointError("is refused: the program has side effects")
    module = deserialize_portable_artifact(exported.mlir_module_serialized, make_ir_context())
    for operation in _operations(module.operation):
        if operation.name == CUSTOM_CALL:
            target = StringAttr(operation.attributes["call_target_name"]).value
            if target not in CUSTOM_CALLS:
                raise CheckpointError(
                    f"is refused: the program has a custom call, {target[:100]!r}, and bncli calls no compiled code by "
                    "the names in a file"
                )
        elif operation.name not in ALLOWED:
            raise CheckpointError(f"is refused: the program has the operation {operation.name[:100]}")


def _operations(top: Operation) -> Iterator[Operation]:
    """All operations of a module, without recursion: a file may nest them deeper than Python's stack."""
    pending = [top]
    while pending:
        operation = pending.pop()
        yield operation
        for region in operation.regions:
            for block in region.blocks:
                pending += [child.operation for child in block.operations]


def _try(exported: jax.export.Exported) -> None:
    """Compile the program for a small batch and run it on zeros; a dimension that is a symbol becomes the batch."""
    zeros = [
        np.zeros([size if isinstance(size, int) else TRIAL_BATCH for size in spec.shape], spec.dtype)
        for spec in exported.in_avals
    ]
    args, kwargs = jax.tree.unflatten(exported.in_tree, zeros)
    jax.block_until_ready(jax.jit(exported.call)(*args, **kwargs))


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {_reason(error)}", remedy=_REMEDY)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
