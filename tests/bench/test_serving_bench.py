"""bench/serving.py: when it refuses to measure, and what its result says of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench import serving


def test_a_busy_machine_is_refused_unless_it_is_said():
    with pytest.raises(SystemExit, match=r"not quiet \(load 3\.0, below 1 needed\)"):
        serving.check_quiet(3.0, busy=False)
    serving.check_quiet(3.0, busy=True)
    serving.check_quiet(0.5, busy=False)


def test_the_result_has_a_date_and_says_whether_it_was_quiet():
    found = serving.about(3.0, threads=1)
    assert found["date"][:2] == "20"
    assert (found["environment"]["load_average"], found["environment"]["quiet"]) == (3.0, False)
    assert serving.about(0.5, threads=1)["environment"]["quiet"] is True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processor_time_is_that_of_all_processes():
    """A shell that starts a Python that works for 0.5 s of processor time."""
    work = "import time; [0 for _ in iter(lambda: time.process_time() < 0.5, False)]"
    code = f'"{sys.executable}" -c "{work}; print(1, flush=True); time.sleep(60)" & wait'
    child = subprocess.Popen(["sh", "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert serving.processor_seconds(child.pid) >= 0.45
    finally:
        os.killpg(child.pid, 9)
        child.wait()
