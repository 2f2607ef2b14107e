"""Many trainings in processes of their own, each forked from one that has imported everything and not started JAX."""

import json
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

TESTS = Path(__file__).parents[1]
ENDED = "ended"


class Zygote:
    """The process that forks; ``start`` is what ``scripts/torture_resume.py`` calls.

    Args:
        preload: a library that the processes are to have preloaded.
    """

    def __init__(self, preload=None):
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
        env |= {"LD_PRELOAD": str(preload)} if preload else {}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def start(self, out, resume, more, env):
        self._process.stdin.write(json.dumps([str(out), resume, list(more), dict(env)]) + "\n")
        self._process.stdin.flush()
        return _Child(int(self._process.stdout.readline()), out)

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class _Child:
    def __init__(self, pid, out):
        self._pid, self._texts = pid, [out.with_suffix(f".{name}") for name in ("stdout", "stderr")]
        self._ended = out.with_suffix(f".{ENDED}")

    def poll(self):
        try:
            return int(self._ended.read_text() or "x")
        except (OSError, ValueError):
            return None

    def kill(self):
        os.kill(self._pid, 9)
        while self.poll() is None:
            pass

    def output(self):
        return tuple(path.read_text() for path in self._texts)


def _train(out, resume, more):
    """A run of the smallest network, as the command does it."""
    from dataclasses import asdict

    from bncli import checkpoint
    from support.tiny import make_dataset, run_config, train

    config = run_config(
        model={"dropout": 0.2},
        training={"epochs": 4, "batch_size": 14, "save_every": "4"} | ({"on_save_error": more[1]} if more else {}),
    )
    with checkpoint.locked(out):
        result = train(config, make_dataset(), out, resume=resume)
    history = json.loads(json.dumps([asdict(row) for row in result.history]))
    parts = {name: digest for name, digest in asdict(result.sha256).items() if digest}
    test = {"accuracy": result.test.accuracy, "loss": result.test.loss}
    return {"sha256": parts, "history": history, "best": asdict(result.best), "test": test}


def _child(out, resume, more, env):
    os.environ.update(env)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(out.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    from bncli.errors import BncliError

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


def _serve():
    warnings.simplefilter("ignore")  # JAX and Python warn of forks
    import jax

    import support.tiny  # noqa: F401 - so that no child imports it
    from bncli.process import cache

    if jax.__version_info__ >= (0, 12):  # each child compiles the same programs; before, a cache is of no use
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
