"""The house keeps its shape: which room may import which, and through which door a dependency comes in."""

import ast
import functools
import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bncli

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bncli"
MODULES = sorted(PACKAGE.rglob("*.py"))

# The rooms, lowest first: each has a rank of its own, and a module imports only its own room and those before it.
ROOMS = (
    "errors",
    "ops",
    "config",
    "process",
    "folding",
    "data",
    "frameworks",
    "models",
    "selftest",
    "measure",
    "checkpoint",
    "inspection",
    "weights",
    "training",
    "jobs",
    "studies",
    "cli",
)
RANK = {name: rank for rank, name in enumerate(ROOMS)}
# Rooms that know nothing of bncli but its errors.
INDEPENDENT = ("folding", "ops")
# Libraries whose objects users pass: imported only where the user has imported them, so only the tests depend on them.
GUESTS = ("equinox", "haiku", "keras")
# dependency -> the only rooms or files that may import it.
DOORS = {
    "absl": {"data/grain_stream.py"},
    "array_record": {"data/array_record.py"},
    "equinox": {"frameworks/equinox.py", "frameworks/equinox_layers.py", "frameworks/equinox_network.py"},
    "google": {"data/examples.py"},
    "grain": {"data/grain_stream.py"},
    "h5py": {"inspection/readers/hdf5.py"},
    "huggingface_hub": {"weights/hub.py"},
    "jax.extend": {"checkpoint/program.py", "folding/trace/graph.py", "training/segments.py"},
    "jax.extend.core": {"folding/trace/graph.py", "training/segments.py"},
    "haiku": {"frameworks/haiku.py", "frameworks/haiku_network.py"},
    "keras": {"frameworks/keras.py"},
    "matplotlib": {"studies/drawing.py"},
    "mlflow": {"jobs/loggers/mlflow_run.py"},
    "onnx": {"folding/export/onnx", "inspection/readers/onnx_model.py", "inspection/readers/onnx_constants.py"},
    "onnxruntime": {"checkpoint/onnx_file.py", "jobs/quantize.py"},
    "optuna": {"jobs/sweep/study.py"},
    "orbax": {"checkpoint/orbax_io.py"},
    "PIL": {"data/deep_image.py", "data/image_file.py", "data/rand_augment.py"},
    "pydantic": {"config"},
    "rich": {"cli"},
    "safetensors": {"checkpoint/safetensors_file.py", "folding/export/safetensors.py"},
    "sklearn": set(),
    "tensorboardX": {"jobs/loggers/tensorboard_events.py"},
    "tensorstore": {"checkpoint/orbax_layout.py"},
    "torch": set(),
    "trackio": {"jobs/loggers/trackio_run.py"},
    "typer": {"cli"},
    "wandb": {"jobs/loggers/wandb_run.py"},
}


@functools.cache
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


def back_edges(room: str, names: set[str]) -> set[str]:
    """The imported names that lie in a room above, or in none."""
    targets = {name: name.split(".")[1] for name in names if name.startswith("bncli.")}
    outside = {name for name, target in targets.items() if target not in RANK and target != "__version__"}
    return outside | {name for name, target in targets.items() if RANK.get(target, -1) > RANK[room]}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    if room(path) not in ("__init__", "__main__"):
        assert not back_edges(room(path), imported_names(path))


def test_a_planted_back_edge_is_seen() -> None:
    planted = {"bncli.jobs.fold", "bncli.training", "bncli.config.settings", "bncli.nowhere.file", "jax"}
    assert back_edges("measure", planted) == {"bncli.jobs.fold", "bncli.training", "bncli.nowhere.file"}


def test_the_map_in_the_package_lists_the_rooms_from_the_top() -> None:
    drawn = [line.split()[0].strip("/") for line in (bncli.__doc__ or "").splitlines() if line.startswith("    ")]
    assert drawn == list(reversed(ROOMS))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Module -> the modules of bncli that it imports; a name taken from a package counts as its ``__init__``."""
    modules = {module_name(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for imported in imported_names(path):
            while imported and imported not in modules:
                imported = imported.rpartition(".")[0]
            graph[name] |= {imported} & set(modules)
    # `from package import module` also names the package, whose ``__init__`` it does not use.
    return {
        name: {t for t in targets if not name.startswith(f"{t}.")} - {name, "bncli"} for name, targets in graph.items()
    }


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Every module that ``start`` imports, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other: the strongly connected components of more than one module."""
    reach = {name: reachable(graph, name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach.get(other, ())) for name in graph}
    return [set(group) for group in groups if len(group) > 1]


def test_no_circle_of_files() -> None:
    assert circles(import_graph()) == []


def test_a_planted_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b"}, "b": {"c", "x"}, "c": set(), "x": {"y"}}) == []


@pytest.mark.parametrize(
    "path", [path for path in MODULES if room(path) in INDEPENDENT], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_independent_rooms_know_only_errors(path: Path) -> None:
    for name in imported_names(path):
        assert room(path) == "ops" or not name.startswith(("flax", "optax")), f"{path} imports {name}"
        if name.startswith("bncli."):
            assert name.split(".")[1] in (room(path), "errors"), f"{path} imports {name}"


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


# Import name -> distribution, where they differ and the tests do without the library.
DISTRIBUTIONS = {"mlflow": ["mlflow-skinny"]}


def test_every_imported_distribution_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ("hub", "keras", "mlflow", "onnx", "study", "sweep", "tensorboard", "trackio", "wandb")
    stated = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    declared = {_distribution(line) for line in stated}
    packages = DISTRIBUTIONS | importlib.metadata.packages_distributions()
    for path in MODULES:
        ignored = {"bncli", *GUESTS, *sys.stdlib_module_names}
        for name in {name.split(".")[0] for name in imported_names(path)} - ignored:
            distributions = {_distribution(found) for found in packages.get(name, [name])}
            assert distributions & declared, f"{path} imports {name}, which no dependency declares"


def _distribution(requirement: str) -> str:
    name = requirement
    for end in "[<>=!~; ":
        name = name.split(end)[0]
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_cli_prints(path: Path) -> None:
    if room(path) == "cli":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno} prints"


@pytest.mark.sample(5)
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


# What extras and guests bring: the product runs without it.
OPTIONAL = (
    *GUESTS,
    "h5py",
    "huggingface_hub",
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "optuna",
    "tensorboardX",
    "trackio",
    "wandb",
)


def test_nothing_but_the_doors_needs_an_extra() -> None:
    doors = {door for name in OPTIONAL for door in DOORS[name]} | {"jobs/sweep"}  # a command that says what it needs
    plain = [
        module_name(path)
        for path in MODULES
        if not {str(path.relative_to(PACKAGE)), *map(str, path.relative_to(PACKAGE).parents)} & doors
    ]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"  # None: an import of it fails
        f"for name in {plain!r}:\n    importlib.import_module(name)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


def test_every_public_name_resolves_and_is_listed() -> None:

    assert list(bncli.__all__) == sorted(bncli.__all__)
    for name in bncli.__all__:
        assert getattr(bncli, name) is not None
    with pytest.raises(AttributeError):
        _ = bncli.no_such_name


def test_a_guest_is_imported_only_with_an_object_of_it() -> None:
    """The doors of all frameworks open without any of them."""
    doors = "import bncli; bncli.fold, bncli.inspect_stats, bncli.recalibrate"
    code = f"import sys; {doors}; print(*(name for name in {GUESTS!r} if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
