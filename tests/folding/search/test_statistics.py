"""Running statistics under any name and in any container are found, and give the same fold."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from bncli.errors import FoldError
from bncli.folding import Role, fold
from folding.oracle import inputs, relu

X = inputs(2, 6, 5, 3).astype(np.float32)
RNG = np.random.default_rng(0)
KERNELS = [RNG.normal(size=(3, 3, width, 4)).astype(np.float32) for width in (3, 4)]
NUMBERS = ("NHWC", "HWIO", "NHWC")
# Two BN: one folds, one is kept in front of a ReLU.
ARRAYS = {
    f"{part}{number}": (RNG.uniform(0.5, 2, 4) if part == "var" else RNG.normal(size=4)).astype(np.float32)
    for number in range(2)
    for part in ("mean", "var", "scale", "bias")
} | {"kernel0": KERNELS[0], "kernel1": KERNELS[1]}


def flax(x, mean, var, scale, bias):
    return (x - mean) * (lax.rsqrt(var + 1e-3) * scale) + bias


def keras(x, mean, var, scale, bias):
    factor = lax.rsqrt(var + 1e-3) * scale
    return x * factor + (bias - mean * factor)


def equinox(x, mean, var, scale, bias):
    return (x - mean) / jnp.sqrt(var + 1e-3) * scale + bias


FORMULAS = {"flax": flax, "keras": keras, "equinox": equinox}


def network(arrays, x, norm):
    def conv(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)

    def numbered(x, number):
        return norm(x, *(arrays[f"{part}{number}"] for part in ("mean", "var", "scale", "bias")))

    return relu(numbered(relu(numbered(conv(x, arrays["kernel0"]), 0)), 1))


@jax.tree_util.register_dataclass
@dataclass
class Box:
    """A container of the user's own."""

    inner: list[jax.Array]
    other: tuple[jax.Array, ...]


CONTAINERS = {
    "dict": lambda leaves: {f"a{number}": leaf for number, leaf in enumerate(leaves)},
    "list": list,
    "tuple": tuple,
    "nested": lambda leaves: ({"x": list(leaves[:3])}, [tuple(leaves[3:7])], *leaves[7:]),
    "dataclass": lambda leaves: Box(list(leaves[:4]), tuple(leaves[4:])),
}


@settings(max_examples=12, deadline=None)
@given(
    order=st.permutations(sorted(ARRAYS)),
    container=st.sampled_from(sorted(CONTAINERS)),
    formula=st.sampled_from(sorted(FORMULAS)),
    given_roles=st.booleans(),
)
def test_names_and_containers_do_not_change_the_fold(order, container, formula, given_roles):
    """Without names the structure tells; a tree of roles tells as well, and gives the layers their names."""
    variables = CONTAINERS[container]([ARRAYS[name] for name in order])
    structure = jax.tree.structure(variables)
    names = jax.tree.leaves(CONTAINERS[container](list(order)))

    def apply(variables, x):
        return network(dict(zip(names, jax.tree.leaves(variables), strict=True)), x, FORMULAS[formula])

    roles = [Role(f"bn{name[-1]}", name[:-1]) if name[:-1] in ("mean", "var") else None for name in names]
    asked = jax.tree.unflatten(structure, roles) if given_roles else None
    folded = fold(apply, variables, X, statistics=asked)
    assert [row.status for row in folded.report.norms] == ["folded", "kept"]
    assert folded.report.recognised == ("as given" if given_roles else "by structure")
    if given_roles:
        assert [row.name for row in folded.report.norms] == ["bn0", "bn1"]
    np.testing.assert_allclose(folded(X), apply(variables, X), atol=1e-5)


def nested():
    params = {f"bn{number}": {part: ARRAYS[f"{part}{number}"] for part in ("scale", "bias")} for number in range(2)}
    stats = {f"bn{number}": {"a": ARRAYS[f"mean{number}"], "b": ARRAYS[f"var{number}"]} for number in range(2)}
    return {"weights": {**params, "kernels": KERNELS}, "running": stats}


def apply_nested(v, x):
    arrays = {f"kernel{number}": kernel for number, kernel in enumerate(v["weights"]["kernels"])}
    for number in range(2):
        params, stats = v["weights"][f"bn{number}"], v["running"][f"bn{number}"]
        arrays |= {f"{part}{number}": array for part, array in params.items()}
        arrays |= {f"mean{number}": stats["a"], f"var{number}": stats["b"]}
    return network(arrays, x, flax)


@pytest.mark.parametrize("asked", [None, lambda path: path[0] == "running"], ids=["by structure", "by a predicate"])
def test_a_layer_is_named_by_the_module_of_both_statistics(asked):
    folded = fold(apply_nested, nested(), X, statistics=asked)
    assert [(row.name, row.status) for row in folded.report.norms] == [("bn0", "folded"), ("bn1", "kept")]
    kept = fold(apply_nested, nested(), X, statistics=asked, exclude=["bn0"], verify=False).report
    assert [row.status for row in kept.norms] == ["kept", "kept"]


def test_a_variance_found_by_structure_is_checked():
    variables = nested()
    variables["running"]["bn1"]["b"] = -variables["running"]["bn1"]["b"]
    with pytest.raises(FoldError, match=r"^bn1: its running variance is negative"):
        fold(apply_nested, variables, X)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda path: False, "names none of the variables"),
        ({"weights": None}, "another structure than the variables"),
        (jax.tree.map(lambda leaf: "mean", nested()), "has a str in it"),
    ],
)
def test_what_statistics_cannot_be_is_said(asked, message):
    with pytest.raises(FoldError, match=message) as error:
        fold(apply_nested, nested(), X, statistics=asked)
    assert error.value.remedy


def test_a_known_array_that_is_subtracted_is_no_bn_without_a_variance():
    """Whitened inputs, a layer scale, a weight norm: none of them is taken for a BN."""

    def apply(v, x):
        kernel = v["kernel"] / jnp.sqrt(jnp.square(v["kernel"]).sum((0, 1, 2)) + 1e-5)
        x = (x - v["mean_of_pixels"]) * v["contrast"]
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS) * v["gamma"]

    variables = {"kernel": KERNELS[0], "mean_of_pixels": X[0, 0, 0], "contrast": X[0, 0, 1], "gamma": ARRAYS["scale0"]}
    with pytest.warns(UserWarning, match="neither under a key 'batch_stats' nor by structure"):
        assert fold(apply, variables, X).report.norms == ()
