"""Pytest's hooks for a worker that dies: the session ends, and says what happened."""

from __future__ import annotations

import pytest

CRASHED = "crashed once"
"""The outcome of a test in which a worker died, and which another worker runs again."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from support.schedule import FileSchedule

    return FileSchedule(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    if getattr(sched, "deaths", {}).get(crashitem) == 1:
        report.outcome = CRASHED


def pytest_report_teststatus(report):
    return (CRASHED, "C", CRASHED.upper()) if report.outcome == CRASHED else None


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.stats.get(CRASHED, []):
        terminalreporter.write_line(f"CRASHED ONCE, and tried again: {report.nodeid}", yellow=True)
