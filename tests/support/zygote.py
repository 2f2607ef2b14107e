"""Training runs in processes of their own, forked from one that has imported everything but not started JAX."""

import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parents[1]
ENDED = "ended"
MODEL = "MODEL_TO_TRAIN"


class Zygote:
    """The process that forks. ``scripts/torture_resume.py`` calls ``start``.

    Args:
        preload: a library to preload into the processes.
        model: the user's own model to train, file.py:Class; None for the smallest built-in network with dropout.
    """

    def __init__(self, preload: Path | None = None, *, model: str | None = None) -> None:
        from support import compile_time  # not at the top: this file is also the program of the process

        env = compile_time.children() | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
        env |= {"LD_PRELOAD": str(preload)} if preload else {}
        env |= {MODEL: model} if model else {}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        assert self._process.stdin
        assert self._process.stdout
        self._orders, self._answers = self._process.stdin, self._process.stdout

    def start(self, out: Path, resume: bool, more: Sequence[str], env: Mapping[str, str]) -> "Child":
        """Fork a process that trains into ``out``."""
        self._orders.write(json.dumps([str(out), resume, list(more), dict(env)]) + "\n")
        self._orders.flush()
        return Child(int(self._answers.readline()), out)

    def close(self) -> None:
        """End the forking process."""
        self._orders.close()
        self._answers.close()
        self._process.wait()


class Child:
    """A forked process, which writes its output and, once it has ended, its exit code beside ``out``."""

    def __init__(self, pid: int, out: Path) -> None:
        self._pid, self._texts = pid, (out.with_suffix(".stdout"), out.with_suffix(".stderr"))
        self._ended = out.with_suffix(f".{ENDED}")

    def poll(self) -> int | None:
        """The exit code; None while the process runs."""
        try:
            return int(self._ended.read_text() or "x")
        except (OSError, ValueError):
            return None

    def kill(self) -> None:
        """Kill the process and wait until it has ended."""
        os.kill(self._pid, 9)
        while self.poll() is None:
            pass

    def output(self) -> tuple[str, str]:
        """The texts on stdout and stderr."""
        stdout, stderr = self._texts
        return stdout.read_text(), stderr.read_text()


def _train(out: Path, resume: bool, more: Sequence[str]) -> dict[str, object]:
    """Train the network as the command does, and return what the command would report."""
    from dataclasses import asdict

    from bncli import checkpoint
    from support.tiny import make_dataset, run_config, train

    config = run_config(
        model={"name": os.environ[MODEL], "args": {}} if MODEL in os.environ else {"dropout": 0.2},
        training={"epochs": 4, "batch_size": 14, "save_every": "4"} | ({"on_save_error": more[1]} if more else {}),
    )
    with checkpoint.locked(out):
        result = train(config, make_dataset(), out, resume=resume)
    history = json.loads(json.dumps([asdict(row) for row in result.history]))
    parts = {name: digest for name, digest in asdict(result.sha256).items() if digest}
    test = {"accuracy": result.test.accuracy, "loss": result.test.loss}
    return {"sha256": parts, "history": history, "best": asdict(result.best), "test": test}


def _child(out: Path, resume: bool, more: Sequence[str], env: Mapping[str, str]) -> int:
    """The exit code of a training run in this process, with its output in files."""
    os.environ.update(env)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(out.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    from bncli.cli import save_errors
    from bncli.errors import BncliError

    save_errors.report_once()
    try:
        sys.stdout.write(json.dumps(_train(out, resume, more)))
        sys.stdout.flush()
    except BncliError as error:
        sys.stderr.write(f"error: {error.message}\n")
        sys.stderr.flush()
        return 1
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 2
    return 0


def _serve() -> None:
    """Fork a process for each line on stdin, answer with its number, and wait for its end."""
    warnings.simplefilter("ignore")  # JAX and Python warn of forks
    import jax

    import support.tiny  # noqa: F401 - so that no child imports it
    from bncli.process import cache

    if jax.__version_info__ >= (0, 12):  # every child compiles the same programs; older versions do not share them
        jax.config.update("jax_compilation_cache_dir", str(cache.user_cache() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for line in sys.stdin:
        name, resume, more, env = json.loads(line)
        out = Path(name)
        ended = out.with_suffix(f".{ENDED}")
        ended.unlink(missing_ok=True)
        if (pid := os.fork()) == 0:
            os._exit(_child(out, resume, more, env))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        ended.write_text(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    _serve()
