"""For every test run of the project, the notebooks included."""

import os

# One thread a process, also in the kernels and programs that tests start: several run side by side,
# and beside whatever else the machine does. Numerics read this once, when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_configure(config):
    """In a lesson that is run, a figure whose texts lie on each other is an error (plots.save)."""
    if getattr(config.option, "nbval_lax", False):
        os.environ.setdefault("LESSONS_CHECK_FIGURES", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where FORBID_SKIPS is set (in CI), a skipped test is a failed one."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("FORBID_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr}"
    return report
