"""--fresh: a verb does again what it is for, and nothing of what it goes on from."""

from __future__ import annotations

import shutil

import pytest
from support.command import diffc_in_process

from diffc.report.model import Report
from diffc.stages.request import EVALUATION, STOPS, Request


@pytest.fixture
def out(compiled, compiled_cache, tmp_path):
    """A copy of the tiny model's run."""
    return shutil.copytree(compiled[0], tmp_path / "OUT")


@pytest.mark.parametrize(
    ("verb", "kinds"),
    [
        (("eval", "--images", 3), {"eval"}),
        (("eval",), {"samples"}),
        (("distill",), {"repair", "distill", "samples"}),
        pytest.param(("export",), {"export"}, marks=pytest.mark.slow),
        pytest.param(("bench",), {"bench", "frontier", "explain"}, marks=pytest.mark.slow),
    ],
)
def test_what_a_verb_goes_on_from_is_reused(out, verb, kinds):
    name, *flags = verb
    done = diffc_in_process(name, out, *flags, "--fresh", "--quiet")
    assert done.returncode == 0, done.stderr
    worked = {stage.name.partition("-")[0] for stage in Report.read(out).stages if not stage.cached}
    assert worked == kinds


def test_a_whole_run_is_done_again_whole():
    whole = Request(None, None, None, fresh=True)
    assert all(map(whole.is_anew, (*STOPS, EVALUATION)))
    assert not any(map(Request(None, None, None).is_anew, STOPS))


def test_an_evaluation_is_done_again_alone():
    one = Request(None, None, None, fresh=True, begins=EVALUATION)
    assert [part for part in (*STOPS, EVALUATION) if one.is_anew(part)] == [EVALUATION]
