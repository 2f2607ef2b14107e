"""Shared by all tests: nothing is left in the user's cache, and what many read is trained once."""

import gc
import logging
import os
import shutil
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from support import compile_time
from support.breadth import beyond_the_sample

from bncli.cli import save_errors

# How long an example takes says something of the machine, not of the code.
settings.register_profile("bncli", deadline=None, print_blob=True)
settings.load_profile("bncli")

# JAX makes many objects and few cycles: at the default thresholds, looking for them takes a tenth of the suite.
gc.set_threshold(50_000, 20, 50)

TESTS = Path(__file__).parent
# Here the compiled code is the subject. Elsewhere the suite saves optimisations, which take longer than the runs.
OPTIMISED = [TESTS / "selftest", TESTS / "process"]


@pytest.hookimpl(tryfirst=True)  # before the items are chosen by their marks
def pytest_collection_modifyitems(items):
    """Mark all but a sample of a test's cases ``broad`` where the test asks for it."""
    for rest in beyond_the_sample(items):
        rest.add_marker("broad")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Choose, before any fixture, how much the compiler optimises."""
    as_users = item.get_closest_marker("optimised") is not None
    compile_time.optimise(as_users or any(item.path.is_relative_to(path) for path in OPTIMISED))


@pytest.fixture(scope="session", autouse=True)
def _cache_of_this_session(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        base = tmp_path_factory.getbasetemp()
        compile_time.share_programs((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "xla")
        yield


@pytest.fixture(scope="session")
def dataset():
    """Three classes of 8×8 grey images: 84 to train, 30 to validate, 24 to test."""
    from support.tiny import make_dataset

    return make_dataset()


@pytest.fixture(scope="session")
def trained(dataset, tmp_path_factory):
    """The result of four epochs of a small ``cnn``, whose saves must only be read; for changes see ``copied``."""
    from support.tiny import CNN, run_config, train

    return train(
        run_config(model=CNN, data={"augment": False}, training={"epochs": 4, "batch_size": 28}),
        dataset,
        tmp_path_factory.mktemp("trained") / "ckpt",
    )


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the trained checkpoint directory, for a test to change."""
    return shutil.copytree(trained.out, tmp_path / "ckpt")


@pytest.fixture
def orbax_leftovers():
    """A restore that fails leaves coroutines never awaited; they are collected here, not in the middle of another test.

    For tests that are marked to ignore the warning about them.
    """
    yield
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _late_callbacks_are_silent():
    """A failed save or restore closes its event loop; what tensorstore then calls back would fail another test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", save_errors.unless_of_a_save(sys.unraisablehook))
        yield


@pytest.fixture
def full_disk(monkeypatch):
    """Inside, no file can grow beyond 200 kB."""
    resource = pytest.importorskip("resource")  # POSIX alone
    for module, hook in ((threading, "excepthook"), (sys, "unraisablehook")):
        monkeypatch.setattr(module, hook, getattr(module, hook))  # so that it comes back
    for name in ("absl", "asyncio"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    save_errors.report_once()

    @contextmanager
    def full_disk():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full_disk
