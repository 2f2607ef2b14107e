"""The house keeps its shape: which module may import which, and through which door a dependency comes in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bncli"
MODULES = sorted(PACKAGE.rglob("*.py"))

# room -> height; a module imports only rooms below its own, or its own.
HEIGHT = {
    "cli": 3,
    "benchmark": 2,
    "checkpoint": 2,
    "conversion": 2,
    "evaluation": 2,
    "exports": 2,
    "folding": 2,
    "inspection": 2,
    "prediction": 2,
    "recalibration": 2,
    "selftest": 2,
    "training": 2,
    "cache": 1,
    "config": 1,
    "data": 1,
    "models": 1,
    "recipes": 1,
    "runtime": 1,
    "ops": 0,
    "choices": 0,
    "errors": 0,
    "heap": 0,
}
# dependency -> the only rooms or files that may import it.
DOORS = {
    "h5py": {"inspection/readers/hdf5.py"},
    "keras": set(),
    "torch": {"inspection/readers/pytorch.py"},
    "typer": {"cli"},
    "rich": {"cli"},
    "onnx": {"folding/export/onnx", "inspection/readers/onnx_model.py"},
    "onnxruntime": {"checkpoint/onnx_file.py"},
    "orbax": {"checkpoint/items.py"},
    "safetensors": {"folding/export/safetensors.py"},
    "jax.extend": {"folding/graph.py"},
    "jax.extend.core": {"folding/graph.py"},
    "sklearn": {"data/digits.py"},
    "tensorstore": {"checkpoint/orbax_layout.py"},
    "PIL": {"data/folder.py"},
}


def imported_names(path: Path) -> set[str]:
    """Every module named in an import anywhere in the file, functions included; TYPE_CHECKING blocks too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    if room(path) in ("__init__", "__main__"):
        return
    for name in imported_names(path):
        if not name.startswith("bncli."):
            continue
        target = name.split(".")[1]
        if target == "__version__":
            continue
        assert target in HEIGHT, f"{path}: {name} is no room of the house"
        assert HEIGHT[target] <= HEIGHT[room(path)], f"{path} imports {name}, which lies above it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "folding").rglob("*.py")), ids=lambda p: p.name)
def test_folding_knows_only_errors(path: Path) -> None:
    for name in imported_names(path):
        assert not name.startswith(("flax", "optax")), f"{path} imports {name}"
        if name.startswith("bncli."):
            assert name.split(".")[1] in ("folding", "errors"), f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_dependency_has_one_door(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    for name in imported_names(path):
        assert "_src" not in name, f"{path} imports the private {name}"
        assert name.split(".")[0] not in ("pickle", "dill", "joblib", "marshal", "shelve"), f"{path} imports {name}"
        for dependency, doors in DOORS.items():
            if name == dependency or name.startswith(dependency + "."):
                rooms = {str(relative), *map(str, relative.parents)}
                assert rooms & doors, f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_cli_prints(path: Path) -> None:
    if room(path) == "cli":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno} prints"


@pytest.mark.parametrize(
    "argv",
    [
        *["--help", "train --help", "--version", "eval", "train --epochs 0", "train --nope", "doctor --help"],
        *["bench", "bench --help", "bench ckpt --rounds 1", "bench ckpt --batch-sizes 0"],
        *["inspect-stats --help", "inspect-stats ckpt --csv --json", "inspect-stats ckpt --other-step last"],
        "inspect-stats ckpt --ignore nope",
    ],
)
def test_help_and_usage_errors_do_not_import_jax(argv: str) -> None:
    code = (
        "import sys\n"
        "from bncli.cli.app import main\n"
        f"sys.argv = ['bncli', *{argv.split()!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'jax', 'numpy', 'flax', 'orbax', 'sklearn', 'optax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_a_training_that_begins_does_not_wait_for_orbax() -> None:
    code = "import sys; from bncli.training import run; sys.exit('orbax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_every_public_name_resolves_and_is_listed() -> None:
    import bncli

    assert list(bncli.__all__) == sorted(bncli.__all__)
    for name in bncli.__all__:
        assert getattr(bncli, name) is not None
    with pytest.raises(AttributeError):
        _ = bncli.no_such_name
