"""A failed save is reported by its error alone; the errors of other threads are shown as ever."""

import logging
import sys
import threading
from types import SimpleNamespace

import pytest

from bncli.cli import save_errors


@pytest.fixture
def shown(monkeypatch):
    """The errors that the hooks let through."""
    shown = []
    for module, hook in ((threading, "excepthook"), (sys, "unraisablehook")):
        monkeypatch.setattr(module, hook, lambda arguments: shown.append(arguments.exc_value))
    for name in ("absl", "asyncio"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    save_errors.report_once()
    return shown


def raised_in(file, name, error):
    """The arguments that a hook gets for an error raised by the function ``name`` of ``file``."""
    source = f"def {name}(error):\n    raise error\n{name}(error)"
    try:
        exec(compile(source, file, "exec"), {"error": error})
    except Exception as caught:
        return SimpleNamespace(exc_value=caught, exc_traceback=caught.__traceback__.tb_next.tb_next)


@pytest.mark.parametrize("hook", [threading, sys])
def test_errors_of_a_save_are_silent_and_others_are_not(shown, hook):
    show = threading.excepthook if hook is threading else sys.unraisablehook
    closed, other = RuntimeError("Event loop is closed"), RuntimeError("Event loop is closed")
    show(raised_in("/site-packages/orbax/checkpoint/x.py", "write", OSError("disk")))
    show(raised_in("C:\\site-packages\\orbax\\x.py", "write", OSError("disk")))
    show(raised_in("/lib/asyncio/base_events.py", "call_soon_threadsafe", closed))
    assert shown == []
    show(raised_in("/lib/asyncio/base_events.py", "call_soon", other))
    show(raised_in("/home/me/script.py", "write", ValueError("mine")))
    show(SimpleNamespace(exc_value=None, exc_traceback=None))
    assert [str(error) for error in shown] == ["Event loop is closed", "mine", "None"]


@pytest.mark.parametrize("name", ["absl", "asyncio"])
def test_what_orbax_logs_of_it_is_silent_whatever_level_is_set_later(shown, caplog, name):
    logger = logging.getLogger(name)
    with caplog.at_level(logging.INFO, logger=name):
        logger.error("a thread of a save has failed")
        logger.critical("something else")
    assert "a thread" not in caplog.text
    assert (name == "absl") or "something else" in caplog.text  # absl does not always propagate
