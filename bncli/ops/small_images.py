"""Convolutions whose kernel is larger than their image, in inference on a CPU.

XLA computes those element by element: 1,603 ms for 512→512 channels at 2×2 and batch 128, where the same image within
its padding takes 18, and 12.5 against 0.5 ms for one image (2 cores with AVX2, JAX 0.12.0.1). A training step has a
product in their place (``convolution.py``), which one image would not pay for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, TypeVar

import jax
from jax import lax

Outputs = TypeVar("Outputs")
JaxObject = Any  # a jaxpr, equation or atom: their classes differ between versions of JAX


def pad_small_images(function: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """``function`` with the images of such convolutions padded before, and not within, the convolution.

    The function itself keeps its convolutions as they are: a fold reads those, and this is for running it.

    Args:
        function: of arrays and pytrees of them, in inference. Convolutions in the functions it jits stay as they are.

    Returns:
        The same function, with the same values but for rounding.
    """

    @wraps(function)
    def padded(*args: Any) -> Outputs:  # noqa: ANN401 - whatever the function takes
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        if not any(_has_small_image(eqn) for eqn in closed.eqns):
            return function(*args)
        outputs = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return padded


def _has_small_image(eqn: JaxObject) -> bool:
    """Whether it is a convolution with a kernel larger than its image."""
    if eqn.primitive is not lax.conv_general_dilated_p or any(size != 1 for size in eqn.params["lhs_dilation"]):
        return False
    images, kernel = (atom.aval.shape for atom in eqn.invars)
    _, _, *image_axes = eqn.params["dimension_numbers"].lhs_spec
    _, _, *kernel_axes = eqn.params["dimension_numbers"].rhs_spec
    return any(images[i] < kernel[k] for i, k in zip(image_axes, kernel_axes, strict=True))


def _run(jaxpr: JaxObject, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def read(atom: JaxObject) -> Any:  # noqa: ANN401 - an array or tracer
        return atom.val if hasattr(atom, "val") else values[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        if _has_small_image(eqn):
            outputs = [_conv_of_padded(*operands, **eqn.params)]
        else:
            bound = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
            outputs = bound if eqn.primitive.multiple_results else [bound]
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _conv_of_padded(
    images: jax.Array,
    kernel: jax.Array,
    *,
    padding: Sequence[tuple[int, int]],
    **params: Any,  # noqa: ANN401 - what the primitive takes
) -> jax.Array:
    conv = partial(lax.conv_general_dilated_p.bind, **params)
    _, _, *axes = params["dimension_numbers"].lhs_spec

    def padded_before(images: jax.Array, kernel: jax.Array) -> jax.Array:
        # Padding may be negative, that is, cut something off. Without the barrier XLA takes it into the convolution.
        margins = [(0, 0, 0)] * images.ndim
        for axis, (low, high) in zip(axes, padding, strict=True):
            margins[axis] = (low, high, 0)
        wide = lax.optimization_barrier(lax.pad(images, images.dtype.type(0), margins))
        return conv(wide, kernel, padding=((0, 0),) * len(axes))

    return lax.platform_dependent(
        images, kernel, cpu=padded_before, default=lambda images, kernel: conv(images, kernel, padding=padding)
    )
