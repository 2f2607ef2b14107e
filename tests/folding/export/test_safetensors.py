"""The safetensors file holds every array as it is, under one flat name."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from bncli.errors import FoldError
from bncli.folding.export.safetensors import to_safetensors

VARIABLES = {
    "params": {
        "Conv_0": {
            "kernel": jnp.arange(24.0).reshape(2, 3, 1, 4).transpose(1, 0, 2, 3),
            "bias": np.zeros(0, np.float32),
        },
        "Dense_0": {"kernel": jnp.ones((2, 2), jnp.float16), "step": np.int32(7)},
    }
}


def test_names_numbers_and_metadata(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_safetensors(VARIABLES, {"format": "bncli"}))
    found = safetensors.numpy.load_file(path)
    conv, dense = VARIABLES["params"]["Conv_0"], VARIABLES["params"]["Dense_0"]
    expected = {
        "params.Conv_0.bias": conv["bias"],
        "params.Conv_0.kernel": conv["kernel"],
        "params.Dense_0.kernel": dense["kernel"],
        "params.Dense_0.step": dense["step"],
    }
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "bncli"}


def test_bfloat16_keeps_its_bits():
    array = jnp.asarray([1.0, -2.5, 3e38], jnp.bfloat16)
    content = to_safetensors({"a": array})
    assert b'"BF16"' in content
    assert content.endswith(np.asarray(array).tobytes())


def test_two_arrays_of_one_name_are_refused():
    with pytest.raises(FoldError, match=r"two arrays would have the same name 'a\.b'"):
        to_safetensors({"a": {"b": np.zeros(1)}, "a.b": np.zeros(1)})


def test_a_dtype_the_format_does_not_have_is_refused():
    with pytest.raises(FoldError, match="safetensors cannot store"):
        to_safetensors({"a": jnp.zeros(2, jnp.int4)})
