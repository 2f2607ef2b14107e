"""Damaged inputs for every command, and a process that runs the commands on them, one after another.

Run as a program, it takes a JSON list of words on each line of stdin, runs that command, and answers with one line of
JSON, an ``Outcome``. ``run_commands`` starts it again if a command ends it.
"""

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from support import compile_time
from support.damage import JSON, ODD, nested, places_of, value_at
from support.dataset_writers import cifar10_files, write_files, write_idx_folder, write_image_folder
from support.hostile import change_bytes

Rng: TypeAlias = random.Random
Words: TypeAlias = list[str]
# Writes a damaged copy of a sound input to a path; returns the command that reads it.
Damage: TypeAlias = Callable[[Rng, Path, Path], Words]

TESTS = Path(__file__).parents[1]
TINY = ["--model", "mlp", "--model-arg", "features=[4]", "--epochs", "1", "--batch-size", "28", "--quiet"]
# A command that takes so much CPU time, or takes none at all for so long, has hung.
SECONDS = 60.0
# The CPU time and memory that damage may take.
MAX_SECONDS, MAX_GROWTH = 10.0, 1 << 30
# Commands after which the compiled programs are dropped.
KEPT_PROGRAMS = 40


def write_sound_inputs(root: Path) -> None:
    """Write one intact input of each kind into ``root``."""
    from support.foreign_files import make_variables, save_item, save_msgpack, write_net
    from support.hostile import onnx_model
    from support.tiny import make_split

    train, test = make_split(84, seed=0), make_split(24, seed=3)
    x_train, x_test = train.images[:], test.images[:]
    np.savez(root / "data.npz", x_train=x_train, y_train=train.labels, x_test=x_test, y_test=test.labels)
    write_idx_folder(root / "idx", zipped=False)
    write_files(root / "cifar", cifar10_files())
    write_image_folder(root / "images")
    shutil.copy(next((root / "images").rglob("*.png")), root / "image.png")
    (root / "run.toml").write_text('[model]\nname = "mlp"\n[training]\nepochs = 3\n[data]\nsource = "digits"\n')
    write_net(root)
    save_msgpack(root / "flax.msgpack", make_variables())
    save_item(root / "orbax", make_variables())
    (root / "model.onnx").write_bytes(onnx_model().SerializeToString())
    data = ["--data", str(root / "data.npz")]
    for command in (
        ["train", *data, "--out", str(root / "ckpt"), *TINY],
        ["fold", str(root / "ckpt"), str(root / "folded"), "--export", "onnx"],
    ):
        outcome = run_here(command)
        assert outcome.exit_code == 0, outcome


def change_document(rng: Rng, document: JSON) -> JSON:
    """The document with one to three of its values replaced by odd ones, exchanged, nested or removed."""
    changed: Any = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = [place for place in places_of(changed) if place]
        if not places:
            return rng.choice(ODD)
        place = rng.choice(places)
        owner, act = value_at(changed, place[:-1]), rng.random()
        if act < 0.15:
            del owner[place[-1]]
        elif act < 0.3:
            owner[place[-1]] = json.loads(json.dumps(value_at(changed, rng.choice(places))))
        elif act < 0.35:
            owner[place[-1]] = nested(rng.choice((3, 100, 300)))
        else:
            owner[place[-1]] = rng.choice(ODD)
    return changed  # type: ignore[no-any-return]  # a JSON document of whatever type


def change_file(rng: Rng, path: Path) -> None:
    """Damage a file: its values if it is JSON, its bytes, or its very kind."""
    content = path.read_bytes()
    if rng.random() < 0.06:
        change_kind(rng, path)
        return
    if rng.random() < 0.5:
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict | list):
            path.write_text(json.dumps(change_document(rng, document)), errors="surrogatepass")
            return
    path.write_bytes(change_bytes(rng, content))


def change_kind(rng: Rng, path: Path) -> None:
    """Put something in the place of a file that is no such file."""
    path.unlink()
    kind = rng.choice(("missing", "empty", "folder", "pipe", "device", "circle"))
    if kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "circle":
        path.symlink_to(path.name)


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _command_on(rng: Rng, checkpoint: Path, sound: Path) -> Words:
    """A command that reads a trained checkpoint; those that compile a network take most of the time, and come less."""
    data = ["--data", str(sound / "data.npz")]
    commands: Sequence[Words] = (
        ["eval", str(checkpoint), *data],
        ["eval", str(checkpoint), "--stats", "batch", "--json", *data],
        ["predict", str(checkpoint), str(sound / "image.png")],
        ["inspect-stats", str(checkpoint), "--data", str(sound / "data.npz")],
        ["fold", str(checkpoint), "--dry-run"],
        ["recalibrate", str(checkpoint), "--dry-run", *data],
        ["train", "--resume", "--out", str(checkpoint), "--epochs", "2", "--quiet"],
        ["report", str(checkpoint), "--out", str(sound / "page.html"), "--overwrite", *data],
        *5 * (["inspect-stats", str(checkpoint)],),
        *5 * (["inspect-stats", str(checkpoint), "--history", "--json"],),
        *4 * (["verify", str(checkpoint)],),
    )
    return rng.choice(commands)


def _command_on_folded(rng: Rng, checkpoint: Path, sound: Path) -> Words:
    data = ["--data", str(sound / "data.npz")]
    commands: Sequence[Words] = (
        ["eval", str(checkpoint), "--data", str(sound / "data.npz")],
        ["predict", str(checkpoint), str(sound / "image.png")],
        ["inspect-stats", str(checkpoint)],
        ["report", str(checkpoint), "--out", str(sound / "page.html"), "--overwrite", *data],
        ["verify", str(checkpoint)],
        ["fold", str(checkpoint), "--dry-run"],
    )
    return rng.choice(commands)


def _copy(sound: Path, target: Path) -> Path:
    if sound.is_dir():
        shutil.copytree(sound, target)
    else:
        shutil.copy(sound, target)
    return target


def damage_config(rng: Rng, sound: Path, target: Path) -> Words:
    """A configuration with other values, under a checksum that fits."""
    from bncli.config.document import sealed

    path = _copy(sound / rng.choice(("ckpt", "folded")), target) / "config.json"
    changed = change_document(rng, json.loads(path.read_text()))
    text = sealed(changed) if isinstance(changed, dict) else json.dumps(changed)
    path.write_text(text, errors="surrogatepass")
    return _command_on(rng, target, sound)


def damage_beside(rng: Rng, sound: Path, target: Path) -> Words:
    """A file beside the saves, without a new checksum."""
    _copy(sound / "ckpt", target)
    change_file(rng, target / rng.choice(("config.json", "metrics.jsonl", "layers.jsonl")))
    return _command_on(rng, target, sound)


def damage_save(rng: Rng, sound: Path, target: Path) -> Words:
    """A file of a save, or its manifest."""
    _copy(sound / "ckpt", target)
    change_file(rng, rng.choice(_files_below(target / "steps")))
    return _command_on(rng, target, sound)


def damage_save_sealed(rng: Rng, sound: Path, target: Path) -> Words:
    """A file of a save, under a manifest that fits."""
    from bncli.checkpoint.manifest import digests_below, manifest_text

    _copy(sound / "ckpt", target)
    save = next(path for path in (target / "steps").iterdir() if path.is_dir())
    small = [path for path in _files_below(save) if path.suffix != ".sha256"]
    change_file(rng, rng.choice(small))
    with suppress(OSError):  # a pipe or a link in its place, which no manifest lists
        save.with_name(f"{save.name}.sha256").write_text(manifest_text(digests_below(save)))
    return _command_on(rng, target, sound)


def damage_folded(rng: Rng, sound: Path, target: Path) -> Words:
    """A file of a folded checkpoint, without a new checksum."""
    _copy(sound / "folded", target)
    change_file(rng, rng.choice(_files_below(target)))
    return _command_on_folded(rng, target, sound)


def damage_program(rng: Rng, sound: Path, target: Path) -> Words:
    """The program of a folded checkpoint, under a manifest that fits."""
    from support.programs import plant

    _copy(sound / "folded", target)
    plant(change_bytes(rng, (target / "forward.stablehlo").read_bytes()), target)
    return ["eval", str(target), "--data", str(sound / "data.npz")]


def damage_exported(rng: Rng, sound: Path, target: Path) -> Words:
    """An exported ``model.onnx``, away from the manifest."""
    _copy(sound / "folded" / "model.onnx", target)
    change_file(rng, target)
    return _command_on_folded(rng, target, sound)


def _damage_data(name: str) -> Damage:
    def damage(rng: Rng, sound: Path, target: Path) -> Words:
        _copy(sound / name, target)
        change_file(rng, target if target.is_file() else rng.choice(_files_below(target)))
        if rng.random() < 0.9:
            return ["eval", str(sound / "ckpt"), "--data", str(target)]
        return ["train", "--data", str(target), "--out", str(target.with_suffix(".out")), *TINY]

    return damage


def damage_image(rng: Rng, sound: Path, target: Path) -> Words:
    """An image to predict."""
    _copy(sound / "image.png", target)
    change_file(rng, target)
    return ["predict", str(sound / rng.choice(("ckpt", "folded"))), str(target)]


def damage_settings(rng: Rng, sound: Path, target: Path) -> Words:
    """A file of settings."""
    _copy(sound / "run.toml", target)
    change_file(rng, target)
    return ["train", "--config", str(target), "--print-config", "--out", str(target.with_suffix(".out"))]


def damage_foreign(rng: Rng, sound: Path, target: Path) -> Words:
    """A checkpoint of another program."""
    name = rng.choice(("flax.msgpack", "orbax", "model.onnx"))
    _copy(sound / name, target)
    change_file(rng, target if target.is_file() else rng.choice(_files_below(target)))
    if rng.random() < 0.5 or name == "model.onnx":
        return ["inspect-stats", str(target)]
    return ["fold", str(target), "--dry-run", "--model", f"{sound}/net.py:Net", "--input-shape", "8,8,1"]


# Kind -> its damage, and its share of 400 inputs. A program takes 3 s in a process of its own.
KINDS: Mapping[str, tuple[Damage, int]] = {
    "config.json, sealed": (damage_config, 70),
    "files beside the saves": (damage_beside, 40),
    "saves": (damage_save, 40),
    "saves, sealed": (damage_save_sealed, 80),
    "folded checkpoints": (damage_folded, 25),
    "programs, sealed": (damage_program, 5),
    "exported models": (damage_exported, 30),
    "npz": (_damage_data("data.npz"), 20),
    "IDX": (_damage_data("idx"), 15),
    "CIFAR": (_damage_data("cifar"), 10),
    "image folders": (_damage_data("images"), 15),
    "images": (damage_image, 15),
    "settings": (damage_settings, 15),
    "foreign checkpoints": (damage_foreign, 20),
}


@dataclass(frozen=True)
class Outcome:
    """The end of one command.

    Attributes:
        command: its words.
        exit_code: of the process if it ended; otherwise of the command.
        fault: the reason why this is no way to end; "" if there is none.
        seconds: CPU time of the process and of those that it started.
        wall: time from start to end.
        growth: the largest memory that it took beyond what the process had, in bytes.
    """

    command: Words
    exit_code: int
    fault: str
    seconds: float
    wall: float
    growth: int

    @property
    def ends_well(self) -> bool:
        """True if there is no fault, and the command took no more time or memory than damage may."""
        return not self.fault and self.seconds <= MAX_SECONDS and self.growth <= MAX_GROWTH


def damaged_commands(sound: Path, target: Path, *, count: int, seed: int = 0) -> Iterator[tuple[str, Words]]:
    """(kind, command) for ``count`` damaged inputs, written into ``target`` one by one."""
    kinds = [kind for kind, (_, share) in KINDS.items() for _ in range(share)]
    random.Random(seed).shuffle(kinds)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        rng = random.Random(f"{seed} {number} {kind}")
        yield kind, KINDS[kind][0](rng, sound, target / f"{number:04}")


def run_commands(commands: Iterator[tuple[str, Words]]) -> Iterator[tuple[str, Outcome]]:
    """(kind, outcome) of each command, run in a process that is started again after a crash."""
    worker: subprocess.Popen[str] | None = None
    for kind, words in commands:
        worker = worker or _start()
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(words) + "\n")
        worker.stdin.flush()
        ready = _wait(worker.stdout, worker.pid)
        line = worker.stdout.readline() if ready else ""
        if line:
            yield kind, Outcome(**json.loads(line))
            continue
        fault = "crashed" if ready else f"no end within {SECONDS:g} s"
        yield kind, Outcome(words, _end(worker), fault, 0.0, 0.0, 0)
        worker = None
    if worker is not None:
        _end(worker)


def _wait(answer: IO[str], session: int) -> bool:
    """True if an answer can be read; False if the processes of the session have hung.

    The machine may be busy, so only their CPU time tells.
    """
    start = used = _cpu_of_session(session)
    moved = time.monotonic()
    while not select.select([answer], [], [], 1.0)[0]:
        now = _cpu_of_session(session)
        if now > used:
            used, moved = now, time.monotonic()
        if used - start > SECONDS or time.monotonic() - moved > SECONDS:
            return False
    return True


def _cpu_of_session(session: int) -> float:
    """CPU time of the processes in a session, in seconds."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:13])) if int(fields[3]) == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _end(worker: "subprocess.Popen[str]") -> int:
    """End the process and those that it started; return its exit code."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            pipe.close()
    return worker.wait()


def _start() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "support.fuzz"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=TESTS,
        start_new_session=True,
        env={
            **compile_time.children(),
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
        },
    )


def run_here(words: Sequence[str]) -> Outcome:
    """The outcome of a command in this process."""
    from typer.testing import CliRunner

    from bncli.cli.app import app

    before, cpu, start = _reset_peak(), _cpu_seconds(), time.perf_counter()
    result = CliRunner().invoke(app, list(words))
    said = " ".join(result.output.split())
    return Outcome(
        list(words),
        result.exit_code,
        _fault(result.exception, result.exit_code, said),
        _cpu_seconds() - cpu,
        time.perf_counter() - start,
        _memory("VmHWM") - before,
    )


def _fault(exception: BaseException | None, exit_code: int, said: str) -> str:
    if exception is not None and not isinstance(exception, SystemExit):
        return f"{type(exception).__name__}: {exception}"
    for sign in ("internal error", "Traceback", "a fault of bncli"):
        if sign in said:
            return said[max(0, said.index(sign) - 100) :][:600]
    if exit_code not in (0, 1, 2, 3):
        return f"exit code {exit_code}: {said[-300:]}"
    if exit_code == 1 and "error: " not in said and "damaged" not in said:
        return f"no message: {said[-300:]}"
    return ""


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _reset_peak() -> int:
    """Forget the largest memory so far; return the present one."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) << 10


def figures(outcomes: Sequence[tuple[str, Outcome]]) -> str:
    """A table of the outcomes by kind: their number, exit codes and faults, the largest time and memory."""
    kinds = [*KINDS, "all"]
    rows = [["kind", "inputs", "read", "refused", "other", "faults", "CPU s", "wall s", "MiB"]]
    for kind in kinds:
        of_kind = [outcome for found, outcome in outcomes if kind in (found, "all")]
        codes = [outcome.exit_code for outcome in of_kind]
        counts = [len(codes), codes.count(0), codes.count(1), len(codes) - codes.count(0) - codes.count(1)]
        rows.append([kind, *map(str, [*counts, sum(bool(outcome.fault) for outcome in of_kind)]), *_largest(of_kind)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def _largest(outcomes: Sequence[Outcome]) -> list[str]:
    """The largest CPU time, wall time and memory."""
    cpu, wall, growth = (
        max((getattr(outcome, field) for outcome in outcomes), default=0) for field in ("seconds", "wall", "growth")
    )
    return [f"{cpu:.1f}", f"{wall:.1f}", f"{growth / 2**20:.0f}"]


def main() -> None:
    """Serve commands until stdin closes."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for number, line in enumerate(sys.stdin):
        if number % KEPT_PROGRAMS == KEPT_PROGRAMS - 1:
            jax.clear_caches()
        answers.write(json.dumps(asdict(run_here(json.loads(line)))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
