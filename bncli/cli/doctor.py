"""``bncli doctor``."""

from __future__ import annotations

from bncli.cli import options
from bncli.errors import CheckFailedError


def doctor(
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show versions, hardware and caches, and check that the installed jaxlib computes what it should.

    Takes about 15 s. Exits with 3 if a check fails, and says what to install.
    """
    import os

    from bncli.cli import display, render
    from bncli.process import jaxlib
    from bncli.process.compile_cache import compile_cache
    from bncli.process.configure import configure
    from bncli.process.hardware import hardware, versions

    configure(allow_bad_jaxlib=True)
    from bncli import selftest

    display.note("checking jaxlib …", quiet=quiet)
    report = render.DoctorReport(
        versions=versions(),
        hardware=hardware(),
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        compile_cache=compile_cache(),
        known_fault=jaxlib.known_fault(),
        checks=selftest.examine(),
    )
    render.emit(report, as_json=as_json, to_json=render.doctor_json, to_text=render.doctor_text)
    if not report.passed:
        raise CheckFailedError(report.verdict, remedy=jaxlib.OTHER_JAX)
