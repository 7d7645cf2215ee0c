"""When a session has to end: slow tests that have not begun by then do not run, and it says so.

The variable DIFFC_TESTS_END holds the time, in seconds since the epoch. CI's machines differ much
in speed, and a session that is stopped from outside says nothing of what it ran.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

END = "DIFFC_TESTS_END"
_REASON = "this session's time is over"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    end = os.environ.get(END)
    if end and item.get_closest_marker("slow") and time.time() > float(end):
        pytest.skip(_REASON)


def pytest_terminal_summary(terminalreporter):
    late = [
        report.nodeid.partition("::")[0]
        for report in terminalreporter.stats.get("skipped", [])
        if _REASON in str(report.longrepr)
    ]
    if late:
        terminalreporter.write_line(f"NOT RUN, {_REASON}: {len(late)} slow tests", yellow=True)
    for file, count in sorted(Counter(late).items()):
        terminalreporter.write_line(f"  {file}: {count}")
