"""The checkpoint directory: what ``train`` and ``fold`` write and every other command reads.

::

    ckpt/
      config.json            config.CheckpointConfig
      metrics.jsonl          one line an epoch
      steps/<step>/          one Orbax save: variables, optimizer, progress
      steps/<step>.sha256    every file of that save; written last, so a save without it is not complete
      forward.stablehlo      a folded checkpoint only: its forward pass, (variables, images) -> logits
      fold_report.json       a folded checkpoint only

The only importer of orbax.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp

from bncli import config as config_module
from bncli.config import CheckpointConfig
from bncli.errors import CheckpointError, ModelError
from bncli.models import Network, Variables, build_network, model_file_sha256

CONFIG = "config.json"
METRICS = "metrics.jsonl"
STEPS = "steps"
FORWARD = "forward.stablehlo"
FOLD_REPORT = "fold_report.json"

Tree = Any  # a pytree of arrays


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint, trained or folded.

    Attributes:
        path: the directory.
        step: of the save that was read.
        config: its ``config.json``.
        variables: pytree of host arrays; ``params`` and ``batch_stats`` where it was trained.
        progress: how far the run was at that save: epochs, best so far, history.
        network: the model and the way to call it; None for a folded checkpoint, which has only a function.
        apply_fn: (variables, normalised images [B, H, W, C]) -> logits [B, K], in inference mode.
    """

    path: Path
    step: int
    config: CheckpointConfig
    variables: Variables
    progress: Mapping[str, Any]
    network: Network | None
    apply_fn: Callable[[Variables, jax.Array], jax.Array]

    @property
    def model(self) -> nn.Module | None:
        """The linen module; None for a folded checkpoint."""
        return self.network.module if self.network is not None else None


def load(path: str | Path, *, step: str = "best", model: str | None = None) -> Checkpoint:
    """The checkpoint in directory ``path``.

    Args:
        path: a directory written by ``bncli train`` or ``bncli fold``.
        step: "best" (by validation), "last", or a step's number.
        model: the model's name, where the user's own code has moved or changed since training.

    Raises:
        CheckpointError: no checkpoint, no such step, or a damaged file; names it.
        ConfigError: ``config.json`` is malformed.
        ModelError: the model's code is missing or not what was trained.
    """
    directory = Path(path)
    config = read_config(directory)
    number = find_step(directory, step)
    variables = load_variables(directory, number)
    progress = read_progress(directory, number)
    if config.folded_from is not None:
        return Checkpoint(directory, number, config, variables, progress, None, _read_forward(directory))
    network = _network(config, model)
    return Checkpoint(directory, number, config, variables, progress, network, network.logits)


def read_config(directory: Path) -> CheckpointConfig:
    """The directory's ``config.json``.

    Raises:
        CheckpointError: the directory holds none.
        ConfigError: it is malformed.
    """
    path = directory / CONFIG
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        what = "holds no config.json" if directory.is_dir() else "is no directory"
        raise CheckpointError(
            f"{directory} {what}: not a bncli checkpoint", remedy="Name a directory written by `bncli train`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return config_module.from_json(text, path=path)


def write_config(directory: Path, config: CheckpointConfig) -> None:
    """Writes ``config.json``, whole or not at all."""
    _write_atomically(directory / CONFIG, config_module.to_json(config).encode())


def write_metrics(directory: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``metrics.jsonl`` anew: after a resume it must hold each epoch once."""
    _write_atomically(directory / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())


def append_metrics(directory: Path, row: Mapping[str, Any]) -> None:
    """Appends one epoch to ``metrics.jsonl``."""
    with (directory / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def check_output(out: Path, *, overwrite: bool, can_resume: bool = False) -> None:
    """Raises CheckpointError where a new checkpoint in ``out`` would overwrite something.

    With ``overwrite`` it may be an earlier checkpoint, and nothing else ever.
    """
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file", remedy="Name a directory.")
    if overwrite and out.is_symlink():
        raise CheckpointError(f"{out} is a symbolic link", remedy="Name the directory that it points to.")
    if out.is_dir() and any(out.iterdir()):
        is_checkpoint = _is_checkpoint(out)
        if not overwrite or not is_checkpoint:
            what = "already holds a checkpoint" if is_checkpoint else "is not empty and holds no checkpoint"
            resume = "--resume to go on with it, " if can_resume and is_checkpoint else ""
            replace = "--overwrite to replace it, or " if is_checkpoint else ""
            raise CheckpointError(f"{out} {what}", remedy=f"Use {resume}{replace}another directory.")


def create_output(out: Path, *, overwrite: bool) -> None:
    """Makes ``out`` an empty checkpoint directory; with ``overwrite`` an earlier checkpoint there is removed.

    Raises:
        CheckpointError: something else is there, or the directory cannot be created.
    """
    check_output(out, overwrite=overwrite)
    try:
        if out.exists():
            shutil.rmtree(out)
        (out / STEPS).mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot create {out}: {error.strerror or error}", remedy="Choose another directory."
        ) from error


def save(out: Path, step: int, *, variables: Tree, optimizer: Tree, progress: Mapping[str, Any]) -> None:
    """Saves one step, whole or not at all, and then its manifest.

    Args:
        out: the checkpoint directory.
        step: optimizer steps done; names the save.
        variables: params and batch_stats.
        optimizer: the rest of the training state.
        progress: JSON: epochs done, best so far, history.

    Raises:
        CheckpointError: it could not be written; earlier saves are untouched.
    """
    target = _step_path(out, step)
    if target.exists():
        shutil.rmtree(target)  # without a manifest, or the loop would not save it again
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(
                target.absolute(),
                args=ocp.args.Composite(
                    variables=ocp.args.PyTreeSave(variables),
                    optimizer=ocp.args.PyTreeSave(optimizer),
                    progress=ocp.args.JsonSave(dict(progress)),
                ),
            )
        _write_atomically(_manifest_path(out, step), _manifest(target).encode())
    except (OSError, ValueError) as error:  # a ValueError is how tensorstore says that the disk is full
        raise CheckpointError(
            f"cannot save {target}: {getattr(error, 'strerror', None) or error}",
            remedy="Free some space, then go on with --resume.",
        ) from error


def load_variables(directory: Path, step: int) -> Variables:
    """The variables of a save as host arrays, in the tree that was saved.

    Raises:
        CheckpointError: the save is damaged.
    """
    verify(directory, step)
    path = _step_path(directory, step).absolute()
    with _checkpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata["variables"].tree
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = checkpointer.restore(
            path, args=ocp.args.Composite(variables=ocp.args.PyTreeRestore(restore_args=restore_args))
        )
    return restored["variables"]


def restore_training(out: Path, step: int, *, variables: Tree, optimizer: Tree) -> tuple[Tree, Tree]:
    """(variables, optimizer) of a save, restored into the shapes, dtypes and shardings of the given trees.

    Raises:
        CheckpointError: the save is damaged, or of another network or optimizer.
    """
    verify(out, step)
    abstract = {"variables": _abstract(variables), "optimizer": _abstract(optimizer)}
    try:
        with _checkpointer() as checkpointer:
            restored = checkpointer.restore(
                _step_path(out, step).absolute(),
                args=ocp.args.Composite(
                    **{
                        name: ocp.args.PyTreeRestore(tree, ocp.checkpoint_utils.construct_restore_args(tree))
                        for name, tree in abstract.items()
                    }
                ),
            )
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{_step_path(out, step)} does not fit this network and optimizer: {error}",
            remedy="Resume with the options the run was started with, or train into another --out.",
        ) from error
    return restored["variables"], restored["optimizer"]


def read_progress(directory: Path, step: int) -> dict[str, Any]:
    """The progress document of a save.

    Raises:
        CheckpointError: the save is damaged.
    """
    verify(directory, step)
    with _checkpointer() as checkpointer:
        restored = checkpointer.restore(
            _step_path(directory, step).absolute(), args=ocp.args.Composite(progress=ocp.args.JsonRestore())
        )
    return dict(restored["progress"])


def complete_steps(directory: Path) -> list[int]:
    """The steps whose save is complete, ascending."""
    manifests = (directory / STEPS).glob("*.sha256")
    return sorted(int(path.stem) for path in manifests if path.stem.isdigit() and path.with_suffix("").is_dir())


def find_step(directory: Path, step: str) -> int:
    """The number of step "best", "last" or "N".

    Raises:
        CheckpointError: the directory has no such save.
    """
    steps = complete_steps(directory)
    if not steps:
        raise CheckpointError(
            f"{directory} holds no complete save", remedy="The training ended before its first save: train again."
        )
    if step == "last":
        return steps[-1]
    if step == "best":
        best = read_progress(directory, steps[-1]).get("best")
        return best["step"] if best and best["step"] in steps else steps[-1]
    if step.isdecimal() and int(step) in steps:
        return int(step)
    raise CheckpointError(
        f"{directory} has no step {step!r}", remedy=f"It has best, last, {', '.join(str(number) for number in steps)}."
    )


def prune(out: Path, *, keep: int, best_step: int | None) -> None:
    """Removes all saves but the last ``keep`` and the best."""
    for step in complete_steps(out)[:-keep]:
        if step != best_step:
            _manifest_path(out, step).unlink()  # first: without it the save does not count
            shutil.rmtree(_step_path(out, step))


def verify(directory: Path, step: int) -> None:
    """Compares each file of a save with its manifest.

    Raises:
        CheckpointError: a file is missing, added or changed; names it.
    """
    target = _step_path(directory, step)
    manifest = _manifest_path(directory, step)
    expected, actual = _parsed(manifest.read_bytes()), _parsed(_manifest(target).encode())
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            what = (
                "is missing" if name not in actual else "is not of this save" if name not in expected else "is damaged"
            )
            others = [str(other) for other in complete_steps(directory) if other != step]
            raise CheckpointError(
                f"{target / name} {what}: its SHA-256 is not that of {manifest.name}",
                remedy=f"Read another save: --step {others[-1]}." if others else "Restore it from a copy.",
            )


def sha256_tree(tree: Tree) -> str:
    """SHA-256 over the leaves of a pytree in path order: name, dtype, shape, little-endian bytes."""
    digest = hashlib.sha256()
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for name in sorted(leaves):
        leaf = np.asarray(leaves[name])
        digest.update(f"{name} {leaf.dtype.name} {leaf.shape}\n".encode())
        digest.update(leaf.astype(leaf.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def write_folded(
    out: Path, config: CheckpointConfig, *, step: int, variables: Variables, forward: bytes, report: Mapping[str, Any]
) -> None:
    """Writes a folded checkpoint into the prepared directory ``out``: ``config.json`` last, so it is whole or none.

    Args:
        out: the directory.
        config: with ``folded_from``.
        step: of the save it was folded from.
        variables: the folded function's arrays.
        forward: the serialised function, (variables, images [b, H, W, C]) -> logits, b symbolic.
        report: the ``bncli.fold/1`` document.
    """
    save(out, step, variables=variables, optimizer={"step": np.int32(step)}, progress={})
    _write_atomically(out / FORWARD, forward)
    _write_atomically(out / FOLD_REPORT, (json.dumps(report, indent=2) + "\n").encode())
    write_config(out, config)


def _is_checkpoint(directory: Path) -> bool:
    """Whether bncli wrote the ``config.json`` there: many programs have one, and ``--overwrite`` is for ours alone."""
    try:
        document = json.loads((directory / CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and str(document.get("schema")).startswith("bncli.config/")


def _network(config: CheckpointConfig, model: str | None) -> Network:
    """The network of a trained checkpoint.

    A name stored in a checkpoint is only imported if the file behind it is the very file that was trained: opening a
    checkpoint must not run code that someone put in its place.
    """
    stored = config.run.model
    if model is None and model_file_sha256(stored.name) != config.model_sha256:
        raise ModelError(
            f"the code of {stored.name} is missing or has changed since training",
            remedy=f"If you trust it, name it: --model {stored.name}",
        )
    named = stored if model is None else config_module.validated(type(stored), **{**vars(stored), "name": model})
    return build_network(
        named,
        num_classes=len(config.dataset.class_names),
        image_shape=config.preprocessing.image_shape,
        precision=config.run.training.precision,
    )


def _read_forward(directory: Path) -> Callable[[Variables, jax.Array], jax.Array]:
    import jax.export

    try:
        return jax.export.deserialize(bytearray((directory / FORWARD).read_bytes())).call
    except Exception as error:
        raise CheckpointError(
            f"cannot read {directory / FORWARD}: {error}", remedy="Fold the original checkpoint again."
        ) from error


def _checkpointer() -> ocp.Checkpointer:
    handler = ocp.CompositeCheckpointHandler(
        variables=ocp.PyTreeCheckpointHandler(),
        optimizer=ocp.PyTreeCheckpointHandler(),
        progress=ocp.JsonCheckpointHandler(),
    )
    return ocp.Checkpointer(handler)


def _abstract(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def _step_path(directory: Path, step: int) -> Path:
    return directory / STEPS / str(step)


def _manifest_path(directory: Path, step: int) -> Path:
    return directory / STEPS / f"{step}.sha256"


def _manifest(target: Path) -> str:
    """One line a file, as ``sha256sum`` writes it, paths relative to ``target``."""
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return "".join(f"{_file_sha256(path)}  {path.relative_to(target).as_posix()}\n" for path in files)


def _parsed(manifest: bytes) -> dict[str, str]:
    """File name -> SHA-256; a line that is damaged makes a file that no save has."""
    lines = manifest.decode(errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
