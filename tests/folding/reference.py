"""Networks computed by NumPy, one operation after the other: XLA takes longer to compile a small one than to run it.

Conventions of the primitives: https://docs.jax.dev/en/latest/jax.lax.html. In float64 throughout.
"""

from __future__ import annotations

from itertools import product

import jax
import numpy as np


def evaluate(function, *arguments):
    """function(*arguments), a pytree of NumPy arrays."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    outputs = run(closed, [np.asarray(leaf) for leaf in jax.tree.leaves(arguments)])
    return jax.tree.unflatten(jax.tree.structure(shape), outputs)


def run(closed, arguments) -> list[np.ndarray]:
    """The outputs of a jaxpr, calls in it included."""
    jaxpr, constants = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], map(np.asarray, [*constants, *arguments]), strict=True))

    def read(atom):
        return np.asarray(atom.val) if hasattr(atom, "val") else values[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        outputs = run(body, operands) if body is not None else OPERATIONS[eqn.primitive.name](eqn.params, *operands)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        for var, output in zip(eqn.outvars, outputs, strict=True):
            assert output.shape == var.aval.shape, eqn
            values[var] = output
    return [read(atom) for atom in jaxpr.outvars]


def convolution(params, x, kernel):
    """Σ over window offsets and input features; features come last here, in front of them space."""
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    x = x.transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    kernel = kernel.transpose(*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    widths = [(0, 0, 0), *((*pad, d - 1) for pad, d in zip(params["padding"], params["lhs_dilation"], strict=True))]
    x = padded({"padding_config": [*widths, (0, 0, 0)]}, x, np.zeros(()))
    taps = windows(x.shape[1:-1], kernel.shape[:-2], params["window_strides"], params["rhs_dilation"])
    parts = zip(np.split(x, groups, axis=-1), np.split(kernel, groups, axis=-1), strict=True)
    out = np.concatenate([sum(a[:, *tap] @ k[offset] for offset, tap in taps) for a, k in parts], axis=-1)
    return out.transpose(np.argsort([numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1]]))


def windows(sizes, window, strides, dilations):
    """For each offset in the window, the slices that pick the elements which all windows have there."""
    counts = [(n - (w - 1) * d - 1) // s + 1 for n, w, s, d in zip(sizes, window, strides, dilations, strict=True)]
    starts = [
        (offset, [o * d for o, d in zip(offset, dilations, strict=True)]) for offset in product(*map(range, window))
    ]
    return [
        (offset, tuple(slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(start, counts, strides, strict=True)))
        for offset, start in starts
    ]


def pool(combine, start):
    """A reduction over windows, the padding being what leaves a result as it is."""

    def operation(params, x):
        config = [(*pad, d - 1) for pad, d in zip(params["padding"], params["base_dilation"], strict=True)]
        x = padded({"padding_config": config}, x, np.asarray(start))
        taps = windows(x.shape, params["window_dimensions"], params["window_strides"], params["window_dilation"])
        return combine.reduce([x[tap] for _, tap in taps])

    return operation


def padded(params, x, value):
    """x with the value around it and between its elements; negative widths crop."""
    for axis, (low, high, interior) in enumerate(params["padding_config"]):
        x = np.moveaxis(x, axis, 0)
        wide = np.full((max(low, 0) + (len(x) - 1) * (interior + 1) + 1 + max(high, 0), *x.shape[1:]), value, x.dtype)
        wide[max(low, 0) : len(wide) - max(high, 0) : interior + 1] = x
        x = np.moveaxis(wide[max(-low, 0) : len(wide) - max(-high, 0)], 0, axis)
    return x


def broadcast(params, x):
    shape = np.ones(len(params["shape"]), int)
    shape[list(params["broadcast_dimensions"])] = x.shape
    return np.broadcast_to(x.reshape(shape), params["shape"])


def product_of_matrices(params, a, b):
    """`dot_general` without batch axes."""
    (contracted, batch) = params["dimension_numbers"]
    assert batch == ((), ())
    return np.tensordot(a, b, axes=contracted)


def sliced(params, x):
    strides = params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


def elementwise(function):
    return lambda params, *operands: np.asarray(function(*operands))


def reduction(function):
    return lambda params, x: np.asarray(function(x, axis=params["axes"]))


def logistic(x):
    return 0.5 * (1 + np.tanh(x / 2))


OPERATIONS = {
    "add": elementwise(np.add),
    "broadcast_in_dim": broadcast,
    "concatenate": lambda params, *operands: np.concatenate(operands, axis=params["dimension"]),
    "conv_general_dilated": convolution,
    "convert_element_type": lambda params, x: x.astype(params["new_dtype"]),
    "copy": elementwise(np.copy),
    "copy_p": elementwise(np.copy),
    "div": elementwise(np.divide),
    "dot_general": product_of_matrices,
    "exp": elementwise(np.exp),
    "ge": elementwise(np.greater_equal),
    "logistic": elementwise(logistic),
    "max": elementwise(np.maximum),
    "min": elementwise(np.minimum),
    "mul": elementwise(np.multiply),
    "neg": elementwise(np.negative),
    "pad": padded,
    "reduce_max": reduction(np.max),
    "reduce_sum": reduction(np.sum),
    "reduce_window_max": pool(np.maximum, -np.inf),
    "reduce_window_sum": pool(np.add, 0.0),
    "reshape": lambda params, x: x.transpose(params["dimensions"] or range(x.ndim)).reshape(params["new_sizes"]),
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "rsqrt": elementwise(lambda x: 1 / np.sqrt(x)),
    "select_n": lambda params, which, *cases: np.choose(which.astype(int), cases),
    "slice": sliced,
    "split": lambda params, x: np.split(x, np.cumsum(params["sizes"])[:-1], axis=params["axis"]),
    "squeeze": lambda params, x: np.squeeze(x, params["dimensions"]),
    "sub": elementwise(np.subtract),
    "tanh": elementwise(np.tanh),
    "transpose": lambda params, x: x.transpose(params["permutation"]),
}
