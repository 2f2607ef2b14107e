"""The user's own module: found by file or package, built with what it takes, refused with a reason, known by hash."""

import hashlib
import sys

import jax
import jax.numpy as jnp
import pytest

from bncli.config.settings import ModelConfig
from bncli.errors import ModelError
from bncli.models import build_network, model_file_sha256
from bncli.models.custom import build_custom, load_target, source_file

NET = """
import flax.linen as nn
import jax.numpy as jnp

class Net(nn.Module):
    num_classes: int
    widths: tuple[int, ...] = (4,)
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        x = x.reshape(len(x), -1)
        for width in self.widths:
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(width, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes)(nn.relu(x))

class Picky(nn.Module):
    width: int

    def __post_init__(self):
        super().__post_init__()
        if self.width < 0:
            raise ValueError("a width is not negative")

class NotAModule:
    pass
"""


@pytest.fixture
def net_file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def build(name, args=None, *, num_classes=3):
    return build_custom(name, args or {}, num_classes=num_classes, dtype=jnp.dtype("float32")).module


def test_a_class_in_a_file_is_built_with_the_number_of_classes_and_the_precision(net_file):
    network = build_network(
        ModelConfig(name=f"{net_file}:Net", args={"widths": [5, 6]}),
        num_classes=7,
        image_shape=(4, 4, 1),
        precision="bfloat16",
    )
    assert network.module.num_classes == 7
    assert network.module.widths == (5, 6)  # JSON has lists, a module must be hashable
    assert network.module.dtype == jnp.bfloat16
    assert network.train_argument == "train"
    params = network.init(jax.random.key(0), (4, 4, 1))["params"]
    assert params["Dense_1"]["kernel"].shape == (5, 6)


def test_what_the_user_gives_wins_over_the_defaults(net_file):
    assert build(f"{net_file}:Net", {"num_classes": 2}).num_classes == 2


def test_a_class_in_a_package_is_found(net_file, tmp_path, monkeypatch):
    package = tmp_path / "zoo_of_a_test" / "sub"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    assert build("zoo_of_a_test.sub.net:Net").num_classes == 3


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder, width in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(NET.replace("(4,)", f"({width},)"))
    widths = [build(f"{tmp_path / folder}/model.py:Net").widths for folder in ("a", "b")]
    assert widths == [(1,), (2,)]


@pytest.mark.parametrize(
    ("name", "args", "message", "remedy"),
    [
        ("{folder}/gone.py:Net", {}, r"gone\.py: no such file", "file.py:Class"),
        ("{folder}/net.py:Ne", {}, r"'Ne' is not a network of .*net\.py", "It has Net, Picky."),
        ("{folder}/net.py:NotAModule", {}, "'NotAModule' is not a network", "It has Net, Picky."),
        ("{folder}/net.py:", {}, "'' is not a network", "It has Net, Picky."),
        ("{folder}/empty.py:Net", {}, "'Net' is not a network", "It has none."),
        ("{folder}/syntax.py:Net", {}, r"syntax\.py: SyntaxError: ", "Fix the file"),
        ("{folder}/raises.py:Net", {}, r"raises\.py: RuntimeError: on import", "Fix the file"),
        (
            "{folder}/net.py:Net",
            {"depth": 3},
            "--model-arg depth: .* has no such argument",
            "num_classes, widths, dtype.",
        ),
        ("{folder}/net.py:Picky", {}, "cannot be built with {}.*width", "--model-arg key=value"),
        ("{folder}/net.py:Picky", {"width": -1}, "a width is not negative", "--model-arg key=value"),
        (
            "no_such_package.net:Net",
            {},
            "cannot import no_such_package.net: ModuleNotFoundError",
            "Install the package",
        ),
        (":Net", {}, "cannot import ", "file.py:Class"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_remedy(net_file, name, args, message, remedy):
    folder = net_file.parent
    (folder / "empty.py").touch()
    (folder / "syntax.py").write_text("class Net(:\n")
    (folder / "raises.py").write_text("raise RuntimeError('on import')\n")
    with pytest.raises(ModelError, match=message) as caught:
        build(name.format(folder=folder), args)
    assert remedy in caught.value.remedy


def test_a_file_that_failed_can_be_mended_and_loaded(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("class Net(:\n")
    with pytest.raises(ModelError):
        load_target(f"{path}:Net")
    path.write_text(NET)
    assert load_target(f"{path}:Net").__name__ == "Net"


def test_the_hash_is_that_of_the_file_and_known_models_have_none(net_file):
    assert model_file_sha256(f"{net_file}:Net") == hashlib.sha256(NET.encode()).hexdigest()
    net_file.write_text(NET + "# changed\n")
    assert model_file_sha256(f"{net_file}:Net") != hashlib.sha256(NET.encode()).hexdigest()
    assert model_file_sha256("cnn") is None
    assert model_file_sha256(f"{net_file.parent}/gone.py:Net") is None


@pytest.mark.parametrize("name", ["sys:Net", "no_such_package:Net", "no_such_package.sub:Net", ":Net", "json.gone:Net"])
def test_a_module_without_a_source_file_has_no_hash(name):
    assert model_file_sha256(name) is None


def test_the_source_of_a_package_is_found_without_running_it(tmp_path, monkeypatch):
    package = tmp_path / "unrun_of_a_test"
    (package / "sub").mkdir(parents=True)
    for path in (package / "__init__.py", package / "net.py", package / "sub" / "__init__.py"):
        path.write_text("raise RuntimeError('it was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert source_file("unrun_of_a_test:Net") == package / "__init__.py"
    assert source_file("unrun_of_a_test.net:Net") == package / "net.py"
    assert source_file("unrun_of_a_test.sub:Net") == package / "sub" / "__init__.py"
    assert "unrun_of_a_test" not in sys.modules
