"""The quantities that papers about BN measure, as functions of any loss. All can be compiled and vmapped.

A loss is a function of a tree of arrays; ``w`` is such a tree, ``g = ∇L(w)``. Norms are Euclidean over all arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

W = TypeVar("W")
# The least positive float32.
_TINY = float(np.finfo(np.float32).tiny)

LossOf: TypeAlias = Callable[[W], jax.Array]


class CovariateShift(NamedTuple):
    """Internal covariate shift of each layer."""

    distance: jax.Array  # [layers], ‖G − G′‖₂
    relative: jax.Array  # [layers], ‖G − G′‖₂ / ‖G‖₂
    cosine: jax.Array  # [layers], cos∠(G, G′)


def covariate_shift(
    loss: LossOf[tuple[W, ...]], before: Sequence[W], after: Sequence[W], *, kernel_of: Callable[[W], jax.Array]
) -> CovariateShift:
    """The change of each layer's gradient that the update of the layers below it causes.

    With the loss L of one batch, and the layers' parameters before (t) and after (t + 1) its step::

        G_i  = ∇_{W_i} L(W_1^t, …, W_k^t)
        G_i′ = ∇_{W_i} L(W_1^{t+1}, …, W_{i−1}^{t+1}, W_i^t, …, W_k^t)

    The first layer has none below it: G = G′.

    Source: Santurkar et al. 2018 (arXiv 1805.11604), definition 2.1.

    Args:
        loss: of the layers' parameters, with the same batch throughout.
        before: per layer, W^t.
        after: per layer, W^{t+1}.
        kernel_of: the array of a layer whose gradient is compared.
    """
    whole = jax.grad(loss)(tuple(before))
    rows = []
    for number in range(len(before)):
        mixed = (*after[:number], *before[number:])
        shifted = jax.grad(loss)(mixed)
        g, g_shifted = kernel_of(whole[number]).ravel(), kernel_of(shifted[number]).ravel()
        distance, norm, other = (jnp.linalg.norm(vector) for vector in (g - g_shifted, g, g_shifted))
        rows.append((distance, _ratio(distance, norm), _ratio(g @ g_shifted, norm * other)))
    return CovariateShift(*(jnp.stack(column) for column in zip(*rows, strict=True)))


class AlongGradient(NamedTuple):
    """The loss and its gradient at w − ηg, for each step η."""

    loss: jax.Array  # [steps], L(w − ηg)
    start: jax.Array  # [], L(w)
    change: jax.Array  # [steps], ‖∇L(w) − ∇L(w − ηg)‖₂
    distance: jax.Array  # [steps], ‖ηg‖₂


def along_gradient(loss: LossOf[W], w: W, steps: jax.Array) -> AlongGradient:
    """The loss and the change of its gradient along −g from w.

    Source: Santurkar et al. 2018 (arXiv 1805.11604), section 3.1 and figure 4; Bjorck et al. 2018 (arXiv 1806.02375),
    figure 3, for the loss alone.

    Args:
        loss: of the weights, with one batch.
        w: the weights.
        steps: η [steps].
    """
    start, g = jax.value_and_grad(loss)(w)

    def at(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        there, g_there = jax.value_and_grad(loss)(jax.tree.map(lambda leaf, d: leaf - step * d, w, g))
        return there, global_norm(jax.tree.map(jnp.subtract, g, g_there))

    losses, changes = jax.vmap(at)(steps)
    return AlongGradient(losses, start, changes, steps * global_norm(g))


def loss_range(line: AlongGradient) -> jax.Array:
    """max − min of the loss along the gradient, the width of the band in Santurkar's figure 4(a)."""
    return jnp.max(line.loss) - jnp.min(line.loss)


def gradient_predictiveness(line: AlongGradient) -> jax.Array:
    """The largest ‖∇L(w) − ∇L(w − ηg)‖₂ over the steps η: the smaller, the longer the gradient stays valid.

    Source: Santurkar et al. 2018, section 3.1 and figure 4(b).
    """
    return jnp.max(line.change)


def effective_smoothness(line: AlongGradient) -> jax.Array:
    """The effective β-smoothness: the largest ‖∇L(w) − ∇L(w − ηg)‖₂ / ‖ηg‖₂ over the steps η.

    β of a smooth loss bounds this quotient everywhere; here it is measured in the direction of training.

    Source: Santurkar et al. 2018, section 3.1 and figure 4(c).
    """
    return jnp.max(line.change / jnp.maximum(line.distance, _TINY))


def activation_percentiles(inputs: jax.Array, percents: Sequence[float] = (15.0, 50.0, 85.0)) -> jax.Array:
    """Percentiles over a batch of the input of one unit's activation: [B] -> [percents].

    Source: Ioffe & Szegedy 2015 (arXiv 1502.03167), figure 1(b, c).
    """
    return jnp.percentile(inputs, jnp.asarray(percents))


class ScaleInvariance(NamedTuple):
    """The errors of BN's two identities under a change of scale of the kernel."""

    output: jax.Array  # ‖BN(aWu) − BN(Wu)‖ / ‖BN(Wu)‖
    gradient: jax.Array  # ‖a ∂/∂(aW) − ∂/∂W‖ / ‖∂/∂W‖


def scale_invariance(
    normalize: Callable[[jax.Array], jax.Array], kernel: jax.Array, u: jax.Array, weights: jax.Array, a: float
) -> ScaleInvariance:
    """The errors of BN(aWu) = BN(Wu) and ∂BN(aWu)/∂(aW) = (1/a) ∂BN(Wu)/∂W, which hold exactly for ε = 0.

    Source: Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.3.

    Args:
        normalize: BN in train mode with ε = 0, [B, F] -> [B, F].
        kernel: W, [D, F].
        u: inputs of the layer, [B, D].
        weights: of the outputs in the scalar that is differentiated, [B, F].
        a: the scale.
    """

    def scalar(kernel: jax.Array) -> jax.Array:
        return jnp.sum(normalize(u @ kernel) * weights)

    plain, scaled = normalize(u @ kernel), normalize(u @ (a * kernel))
    g, g_scaled = jax.grad(scalar)(kernel), a * jax.grad(scalar)(a * kernel)
    return ScaleInvariance(_relative(scaled, plain), _relative(g_scaled, g))


def global_norm(tree: object) -> jax.Array:
    """The Euclidean norm over all arrays of a tree."""
    squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)]
    norm: jax.Array = jnp.sqrt(jnp.sum(jnp.stack(squares)))
    return norm


def _relative(found: jax.Array, expected: jax.Array) -> jax.Array:
    return global_norm(found - expected) / global_norm(expected)


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient; 0 where the denominator is."""
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1.0), 0.0)
