"""The proof that a fold brings along: right folds are proved or said not to be, wrong ones never."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bncli
import bncli.folding.primitives as table
from bncli.errors import FoldError
from bncli.folding import fold
from bncli.folding.primitives import PRIMITIVES
from bncli.folding.primitives.primitive import Rules
from bncli.folding.proof.prove import prove
from folding.oracle import conv, dense, inputs, make, norm, relu

X = inputs(2, 6, 5, 3).astype(np.float32)
STATISTICS = {"mean": np.float32([0.5, -1, 0.2, 0]), "var": np.float32([1, 0.5, 2, 0.3])}
SHIFT = {"scale": np.float32([1, -2, 0.5, 1.5]), "bias": np.float32([0.1, 0, -0.5, 1])}


def variables():
    """Two convolutions with BN and a dense layer, all of ordinary size."""
    v = jax.tree.map(np.float32, make(a=(3, 3, 3, 4), b=(3, 3, 4, 4), d=(4, 5)))
    for name in ("bn", "bn2"):
        v["params"][name], v["batch_stats"][name] = SHIFT, STATISTICS
    return v


V = variables()


def block(v, x, below=0.0):
    return relu(norm(v, "bn", conv(v, "a", x)) - below)


def second(v, x):
    return norm(v, "bn2", conv(v, "b", x))


def logits(v, x):
    return dense(v, "d", block(v, x).mean((1, 2)))


def half(v, x):
    return logits(*jax.tree.map(lambda a: a.astype(jnp.bfloat16), (v, x)))


def both(y):
    return jax.nn.sigmoid(y + 100), y


def beside(x, part):
    """An output that varies with the input, whatever the part does."""
    return x.mean((1, 2, 3)) + part


def taken(x):
    return x.sum() > 1e6


def in_a_branch(v, x):
    return beside(x, jax.lax.cond(taken(x), lambda y: y.sum(), lambda y: jnp.zeros(()), block(v, x)))


def by_a_flag(v, x):
    return beside(x, jnp.where(taken(x), block(v, x).mean((1, 2, 3)), 0.0))


def in_a_loop(v, x):
    y = block(v, x).sum()
    return beside(x, jax.lax.fori_loop(0, taken(x).astype(jnp.int32), lambda _, total: total + y, jnp.zeros(())))


# Networks whose outputs show a fold.
PLAIN = {
    "logits": logits,
    "two outputs": lambda v, x: {"loss": logits(v, x).mean(), "maps": (block(v, x),)},
    "a small output beside a large one": lambda v, x: (x.mean((1, 2, 3)) * 1e6, block(v, x) * 1e-6),
    "a constant output beside another": lambda v, x: (jnp.ones(3), v["batch_stats"]["bn"]["mean"], logits(v, x)),
    "a mask of minus infinity": lambda v, x: jnp.where(jnp.arange(5) > 2, -jnp.inf, logits(v, x)),
    "a saturated output beside its logits": lambda v, x: both(logits(v, x)),
}
# Networks whose outputs hide it, while a value inside does not.
SATURATED = {
    "a dead ReLU": lambda v, x: block(v, x, below=30.0),
    "a saturated softmax": lambda v, x: jax.nn.softmax(logits(v, x) * 1e4 + jnp.arange(5) * 1e6),
    "a saturated sigmoid": lambda v, x: jax.nn.sigmoid(logits(v, x) + 30),
    "a saturated tanh": lambda v, x: jnp.tanh(30 + logits(v, x)),
    "nothing but zeros": lambda v, x: block(v, x) * 0,
    "a tiny signal on a large constant": lambda v, x: block(v, x) * 1e-4 + 1000,
    "a bounded output": lambda v, x: jnp.clip(logits(v, x), -1e-20, 1e-20) * 0,
    "a branch that is not taken": in_a_branch,
    "a flag that is not set": by_a_flag,
    "a loop without a turn": in_a_loop,
    "both outputs": lambda v, x: (block(v, x, below=30.0), jax.nn.sigmoid(second(v, block(v, x)) + 100)),
}


def damaged(folded, name="a", factor=1.01):
    """The folded network with a kernel that is wrong by a percent."""
    wrong = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * factor if f"['{name}']['kernel']" in jax.tree_util.keystr(path) else leaf,
        folded.variables,
    )
    return replace(folded, variables=wrong)


@pytest.mark.parametrize("name", PLAIN)
def test_outputs_that_vary_with_the_input_prove_a_fold(name):
    folded = fold(PLAIN[name], V, X)
    proof = folded.report.verification
    assert (proof.status, proof.passed, proof.note) == ("proved", True, None)
    assert (proof.num_examples, proof.max_rel_error <= 1e-5) == (4, True)
    assert prove(damaged(folded), V).status == "failed"


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", SATURATED)
def test_where_the_outputs_do_not_vary_values_inside_prove_a_fold(name):
    folded = fold(SATURATED[name], V, X)
    proof = folded.report.verification
    assert (proof.status, proof.passed) == ("proved", True)
    assert proof.note == "the outputs do not show every fold, so values inside were compared too"
    wrong = prove(damaged(folded), V)
    assert (wrong.status, wrong.note) == ("failed", "values inside the network differ")


def test_a_prediction_is_proved_by_the_logits_behind_it():
    def predict(v, x):
        return logits(v, x).argmax(-1)

    folded = fold(predict, V, X)
    assert folded.report.verification.status == "proved"
    assert prove(damaged(folded), V).status == "failed"


def test_a_fold_that_no_varying_value_shows_is_not_proved():
    """Behind a dead ReLU nothing varies any more: the second convolution and its BN see zeros only."""
    folded = fold(lambda v, x: second(v, block(v, x, below=30.0)), V, X)
    proof = folded.report.verification
    assert [row.status for row in folded.report.norms] == ["folded", "folded"]
    assert (proof.status, proof.passed) == ("not proved", False)
    assert proof.note == "no value that varies with the input shows the fold of bn2"
    assert prove(damaged(folded, "a"), V).status == "failed"
    assert prove(damaged(folded, "b"), V).status == "not proved"


def test_a_rounding_inside_makes_no_wrong_fold_of_a_right_one():
    """A step more or less in one place is no reason to refuse the fold; numbers before the rounding are compared."""

    def quantized(v, x):
        return dense(v, "d", jnp.round(block(v, x) * 50).mean((1, 2)))

    folded = fold(quantized, V, X)
    assert folded.report.verification.status == "proved"
    assert prove(damaged(folded, factor=1 + 2e-6), V).status in ("proved", "not proved")
    assert prove(damaged(folded), V).status == "failed"


def test_outputs_that_are_not_finite_prove_nothing():
    folded = fold(lambda v, x: jnp.log(norm(v, "bn", conv(v, "a", x))), V, X)
    proof = folded.report.verification
    assert (proof.status, proof.note) == ("not proved", "the original's outputs are not finite")
    assert prove(damaged(folded), V).status == "failed"


@pytest.mark.parametrize("head", [lambda v, x: half(v, x), lambda v, x: half(v, x).astype(jnp.float32)])
def test_a_network_in_bfloat16_has_its_tolerance_whatever_its_outputs_are(head):
    proof = fold(head, V, X).report.verification
    assert (proof.status, proof.tolerance) == ("proved", 0.0625)


def test_a_network_with_side_effects_is_not_run():
    seen = []

    def telling(v, x):
        jax.debug.callback(lambda y: seen.append(y), x.sum())
        return block(v, x)

    proof = fold(telling, V, X).report.verification
    assert (proof.status, proof.note) == ("not proved", "the network has side effects, so it was not run")
    assert seen == []


def test_a_symbolic_batch_is_proved_at_some_size():
    (size,) = jax.export.symbolic_shape("size")
    proof = fold(block, V, jax.ShapeDtypeStruct((size, 6, 5, 3), np.float32)).report.verification
    assert (proof.status, proof.num_examples) == ("proved", 8)


def test_symbolic_sizes_of_other_axes_are_not_proved():
    size, height = jax.export.symbolic_shape("size, height")
    proof = fold(block, V, jax.ShapeDtypeStruct((size, height, 5, 3), np.float32)).report.verification
    assert proof.status == "not proved"
    assert proof.note == "the network cannot run on random inputs of the example's shapes and dtypes"


def test_a_network_for_one_batch_size_is_run_at_that_size():
    def apply(v, x):
        assert x.shape[0] == 6
        return block(v, x)

    assert fold(apply, V, np.resize(X, (6, *X.shape[1:]))).report.verification.num_examples == 12


def test_without_verify_nothing_is_proved():
    assert fold(block, V, X, verify=False).report.verification is None


@pytest.mark.parametrize("name", ["logits", "a small output beside a large one"])
def test_a_wrong_rule_is_an_error_and_no_folded_network(name, monkeypatch):
    """A convolution that forgets the scale of its kernel."""
    record = PRIMITIVES["conv_general_dilated"]

    def forgetful(op, outputs):
        move = record.rules.backward(op, outputs)
        return replace(move, weights={1: op.known(1)})

    wrong = replace(record, rules=Rules(forgetful, record.rules.forward))
    monkeypatch.setattr(table, "PRIMITIVES", {**PRIMITIVES, "conv_general_dilated": wrong})
    message = r"^the folded network computes other numbers on random examples: relative error [\d.]+, allowed 0.0001"
    with pytest.raises(FoldError, match=message) as error:
        bncli.fold(PLAIN[name], V, X)
    assert "verify=False" in error.value.remedy
    assert bncli.fold(PLAIN[name], V, X, verify=False).report.folded == 1
