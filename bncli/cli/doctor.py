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

    from bncli import runtime
    from bncli.cli import display, render

    runtime.configure(allow_bad_jaxlib=True)
    from bncli import selftest

    display.note("checking jaxlib …", quiet=quiet)
    report = render.DoctorReport(
        versions=runtime.versions(),
        hardware=runtime.hardware(),
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        compile_cache=runtime.compile_cache(),
        known_fault=runtime.known_fault(),
        checks=selftest.examine(),
    )
    render.emit(report, as_json=as_json, to_json=render.doctor_json, to_text=render.doctor_text)
    if not report.passed:
        raise CheckFailedError(report.verdict, remedy=runtime.OTHER_JAX)
