"""BN layers in safetensors files, as the real library writes them, by the names of any framework."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy

from bncli.errors import CheckpointError
from bncli.inspection.readers import Asked, read
from bncli.inspection.readers.safetensors_file import DTYPES, MAX_HEADER

RNG = np.random.default_rng(0)
ARRAYS = {name: RNG.normal(size=5).astype(np.float32) for name in ("running_mean", "weight", "bias")} | {
    "running_var": np.exp(RNG.normal(size=5)).astype(np.float32),
    "num_batches_tracked": np.array(7, np.int64),
}


def named(prefix, arrays=ARRAYS):
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"


def test_the_numbers_and_names_are_those_that_were_saved(path):
    conv = {"layer1.conv.weight": RNG.normal(size=(5, 1, 3, 3)).astype(np.float32)}
    safetensors.numpy.save_file(conv | named("layer10.bn") | named("layer1.bn") | named("layer2.bn"), path)
    contents = read(path, Asked())
    assert (contents.format, contents.framework) == ("safetensors", "pytorch")
    assert [layer.name for layer in contents.layers] == ["layer1.bn", "layer2.bn", "layer10.bn"]
    for layer in contents.layers:
        np.testing.assert_array_equal(layer.mean, ARRAYS["running_mean"])
        np.testing.assert_array_equal(layer.var, ARRAYS["running_var"])
        np.testing.assert_array_equal(layer.scale, ARRAYS["weight"])
        np.testing.assert_array_equal(layer.bias, ARRAYS["bias"])
        assert layer.updates == 7


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_half_precision_keeps_its_numbers(path, dtype):
    arrays = {name: jnp.asarray(array, dtype) for name, array in ARRAYS.items() if array.ndim}
    safetensors.flax.save_file(named("bn", arrays), path)
    (layer,) = read(path, Asked()).layers
    assert layer.dtype == jnp.dtype(dtype).name
    np.testing.assert_array_equal(layer.mean, np.asarray(arrays["running_mean"], np.float64))


def test_every_dtype_of_the_library_has_its_size(path):
    for name, (dtype, itemsize) in DTYPES.items():
        if dtype != "bfloat16":
            safetensors.numpy.save_file({"x": np.zeros(3, dtype)}, path)
            header = json.loads(path.read_bytes()[8:].split(b"}}")[0] + b"}}")
            assert (header["x"]["dtype"], header["x"]["data_offsets"]) == (name, [0, 3 * itemsize])


def test_a_name_that_is_no_text_can_be_printed(path):
    safetensors.numpy.save_file(named("bnX"), path)
    rewrite(path, lambda header: [header.update({n.replace("X", "\ud800"): header.pop(n)}) for n in list(header)])
    (layer,) = read(path, Asked()).layers
    assert layer.name == r"bn\ud800"


def test_what_bncli_folded_says_so(path):
    safetensors.numpy.save_file({"conv.weight": np.ones((2, 1, 3, 3), np.float32)}, path, metadata={"format": "bncli"})
    contents = read(path, Asked())
    assert contents.layers == ()
    assert "bncli fold --export safetensors" in contents.notes[0]


def rewrite(path, change):
    """The file with another header."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def moved(begin, end):
    return lambda header: header["bn.bias"].update(data_offsets=[begin, end])


DAMAGES = {
    "beyond the end": moved(0, 1 << 40),
    "backwards": moved(20, 0),
    "before the beginning": moved(-20, 0),
    "fractions": moved(0.5, 20.5),
    "fewer bytes than values": moved(0, 16),
    "negative lengths": lambda header: header["bn.bias"].update(shape=[-5, -1]),
    "no shape": lambda header: header["bn.bias"].pop("shape"),
    "a list": lambda header: header.update({"bn.bias": [1, 2]}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_header_that_does_not_describe_the_file_is_refused(name, path):
    safetensors.numpy.save_file(named("bn"), path)
    rewrite(path, DAMAGES[name])
    with pytest.raises(CheckpointError, match=r"model\.bin is a damaged safetensors file") as caught:
        read(path, Asked())
    assert caught.value.remedy


@pytest.mark.parametrize("text", [b"{", b"{}]", b'{"a": ' * 5000])
def test_a_header_that_is_no_json_is_refused(text, path):
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="its header is no JSON"):
        read(path, Asked())


def test_a_header_larger_than_any_is_not_read(path):
    length = MAX_HEADER + 1
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(length + 8)
    with pytest.raises(CheckpointError, match="its header claims"):
        read(path, Asked())


def test_jax_is_not_imported_for_it(path):
    safetensors.numpy.save_file(named("bn"), path)
    code = (
        "import sys\n"
        "from bncli.cli.app import main\n"
        f"sys.argv = ['bncli', 'inspect-stats', {str(path)!r}, '--json']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'jax', 'flax', 'orbax', 'sklearn', 'optax'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["format"] == "safetensors"
