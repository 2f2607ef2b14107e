"""A stranger's program is examined where it may crash: what is not on the list never reaches the compiler here."""

import shutil
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.programs import edited, make_program, plant
from support.tiny import make_split

import bncli
from bncli.checkpoint import find_step, load_variables, program, trust_program
from bncli.config.settings import ModelConfig
from bncli.errors import CheckpointError, FoldError
from bncli.folding.export.stablehlo import lower
from bncli.jobs.fold import fold_checkpoint
from bncli.models import build_network
from bncli.ops import pad_small_images
from bncli.process.child import End

VARIABLES = {"kernel": np.ones((64, 3), np.float32)}


def dense(variables, images):
    return images.reshape(images.shape[0], -1) @ variables["kernel"]


@pytest.fixture(scope="module")
def sound(trained, tmp_path_factory):
    """A folded checkpoint, to be read only."""
    out = tmp_path_factory.mktemp("program") / "folded"
    fold_checkpoint(bncli.load(trained.out), out)
    return out


@pytest.fixture
def folded(sound, tmp_path, monkeypatch):
    """A copy of it, on a machine that has not seen its program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(sound, tmp_path / "folded")


def open_here(content, tmp_path, variables=VARIABLES):
    return program.open_program(content, path=tmp_path / "forward.stablehlo", variables=variables)


def forbid_examination(monkeypatch):
    def never(*args):
        raise AssertionError("the program was examined")

    monkeypatch.setattr(program, "_examine", never)


@pytest.mark.broad
def test_a_program_is_examined_once(folded, monkeypatch):
    expected = bncli.load(folded).logits(make_split(3, seed=0).images)
    forbid_examination(monkeypatch)
    np.testing.assert_array_equal(bncli.load(folded).logits(make_split(3, seed=0).images), expected)


def test_what_bncli_has_folded_here_is_not_examined(trained, tmp_path, monkeypatch):
    forbid_examination(monkeypatch)
    fold_checkpoint(bncli.load(trained.out), tmp_path / "folded")
    bncli.load(tmp_path / "folded")


@pytest.mark.parametrize("name", ["xla_ffi_python_cpu_callback", "lapack_spotrf_ffi", "TopK", "no such target"])
def test_a_custom_call_is_refused_by_name(name):
    content = edited(make_program(dense, VARIABLES), lambda text: text.replace("@shape_assertion", f'@"{name}"'))
    with pytest.raises(CheckpointError, match=f"is refused: the program has a custom call, '{name}'"):
        trust_program(content)


@pytest.mark.parametrize("name", ["partition_id", "replica_id"])
def test_an_operation_beside_the_list_is_refused_by_name(name):
    def with_operation(text):
        odd = f'%odd = "stablehlo.{name}"() : () -> tensor<ui32>'
        constant = "%c = stablehlo.constant dense<1> : tensor<i32>"
        return text.replace(constant, f"{odd}\n%c = stablehlo.convert %odd : (tensor<ui32>) -> tensor<i32>", 1)

    content = edited(make_program(dense, VARIABLES), with_operation)
    with pytest.raises(CheckpointError, match=f"the program has the operation stablehlo.{name}"):
        trust_program(content)


def test_a_hostile_program_under_a_right_checksum_is_refused_in_another_process(folded):
    content = edited(
        (folded / "forward.stablehlo").read_bytes(), lambda text: text.replace("@shape_assertion", "@os_system")
    )
    path = plant(content, folded)
    with pytest.raises(CheckpointError, match=rf"{path} is refused: .*'os_system'") as caught:
        bncli.load(folded)
    assert caught.value.remedy == "Fold the original checkpoint again."


@pytest.mark.parametrize("content", [b"", b"\xff" * 400])
def test_bytes_that_are_no_program_are_refused(content, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=r"forward.stablehlo is damaged: "):
        open_here(content, tmp_path)
    assert not (tmp_path / "cache").exists()  # a refusal is not remembered


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (End(-signal.SIGSEGV, None, ""), "the library that reads it crashed in a process of its own (SIGSEGV)"),
        (End(-signal.SIGABRT, None, ""), "the library that reads it crashed in a process of its own (SIGABRT)"),
        (End(-signal.SIGXCPU, None, ""), "reading or running it once takes longer than for any network of its size"),
        (End(None, 600, ""), "it could not be tried in 600 s"),
        (End(1, None, "a\nlast words\n"), "the library that reads it ended its process: last words"),
        (End(1, None, ""), "the library that reads it ended its process: exit code 1"),
    ],
)
def test_the_end_of_the_other_process_is_told(end, words):
    assert program._complaint(end) == words


ODD_OUTPUTS = {
    "integers": lambda variables, images: dense(variables, images).astype(jnp.int32),
    "truths": lambda variables, images: dense(variables, images) > 0,
    "complex numbers": lambda variables, images: dense(variables, images) + 1j,
    "a scalar": lambda variables, images: dense(variables, images).sum(),
    "two outputs": lambda variables, images: (dense(variables, images), images),
    "other classes": lambda variables, images: dense(variables, images)[:, :2],
    "images": lambda variables, images: images,
}


@pytest.mark.parametrize("what", ODD_OUTPUTS)
def test_a_program_that_makes_no_logits_is_refused(what, folded):
    step = find_step(folded, "last")
    variables = load_variables(folded, step)

    def of_these_arrays(arrays, images):
        kernel = jnp.ones((64, 3)) * sum(leaf.sum() for leaf in jax.tree.leaves(arrays))
        return ODD_OUTPUTS[what]({"kernel": kernel}, images)

    content = make_program(of_these_arrays, variables)
    trust_program(content)  # its operations are fine
    path = plant(content, folded)
    with pytest.raises(CheckpointError, match=rf"{path} makes .* not logits of 3 classes"):
        bncli.load(folded)


def test_a_program_for_other_arrays_is_refused(folded):
    content = make_program(dense, VARIABLES)
    trust_program(content)
    path = plant(content, folded)
    with pytest.raises(CheckpointError, match=f"{path} cannot be applied to the arrays saved with it"):
        bncli.load(folded)


@pytest.mark.sample(2)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    ["cnn", "mlp", "resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet20", "resnet50"))],
)
def test_the_programs_of_all_built_in_models_are_allowed(name, precision):
    network = build_network(ModelConfig(name=name), num_classes=10, image_shape=(32, 32, 3), precision=precision)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, 3)))
    images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), 32, 32, 3), jnp.dtype(precision))
    trust_program(bytes(lower(pad_small_images(network.logits), variables, images).serialize()))


# What models of the users' own may contain, beside convolutions.
OPERATIONS = {
    "activations": lambda x: jax.nn.gelu(x) + jax.nn.silu(x) + jax.nn.softplus(x) + jax.scipy.special.erf(x),
    "attention": lambda x: jax.nn.dot_product_attention(x, x, x),
    "a scan": lambda x: jax.lax.scan(lambda carry, y: (carry + y, carry), x[:, 0], x.transpose(1, 0, 2, 3))[0],
    "sorting": lambda x: jnp.sort(x) + jnp.argmax(x, -1, keepdims=True) + jax.lax.top_k(x, 1)[0],
    "a transform": lambda x: jnp.fft.rfft2(x[..., 0]).real,
    "resizing": lambda x: jax.image.resize(x, (x.shape[0], 16, 16, 1), "bilinear"),
    "indexing": lambda x: x[:, 1:].at[:, 0].set(0.0) + jnp.take(x, jnp.array([1]), axis=1),
    "branches": lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "random bits": lambda x: x * jax.random.bernoulli(jax.random.key(0), 0.5, (8, 8, 1)),
    "integers": lambda x: jnp.round(x * 127).astype(jnp.int8).astype(jnp.float32) % 7,
    "an approximate sorting": lambda x: jax.lax.approx_max_k(x.reshape(x.shape[0], -1), 3)[0],
    "sums along the batch": lambda x: jnp.cumsum(x, axis=0) + jax.lax.cummax(x, axis=0),
    "pooling": lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_operations_of_other_models_are_allowed(what):
    trust_program(make_program(lambda variables, images: OPERATIONS[what](images), VARIABLES))


def test_double_precision_is_allowed():
    with jax.enable_x64(True):
        program_of_doubles = make_program(lambda variables, images: dense(variables, images) * 2.0, VARIABLES)
        trust_program(program_of_doubles)


def test_a_network_that_could_not_be_read_again_is_not_folded(trained, tmp_path, monkeypatch):
    original = bncli.load(trained.out)

    def with_cholesky(variables, images):
        logits = original.apply_fn(variables, images)
        return logits * jnp.linalg.cholesky(jnp.eye(3) + logits[0, 0] ** 2)[2, 2]

    with pytest.raises(FoldError, match=r"cannot be written as a folded checkpoint: it is refused: .*custom call"):
        fold_checkpoint(replace(original, apply_fn=with_cholesky), tmp_path / "folded")
    assert not (tmp_path / "folded").exists()
