"""--require-ahead: a served loop that a dense loop of the same time beats is no pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.frontiers import frontier, half_cut, noisy, point
from support.gate_folders import FAST, edit, figures_of, make_output

from diffc.gate.ahead import NAME, ahead_figures
from diffc.gate.subject import CheckedSide


def judged(*frontiers):
    side = CheckedSide(Path("out"), "output", (), "tiny", frontiers=frontiers)
    return ahead_figures(side)


@pytest.mark.parametrize(
    ("own", "verdict", "said"),
    [
        ("ddim:50", "regressed", "behind at equal time: ddim:50 has"),
        ("ddim:5", "pass", "ahead at equal time: ddim:5 has"),
    ],
)
def test_the_served_loop_is_judged_beside_dense_loops_of_its_time(own, verdict, said) -> None:
    (figure,) = judged(half_cut(own))
    assert (figure.verdict, figure.target, figure.batch) == (verdict, "ort-cpu", 1)
    assert said in figure.note
    assert figure.candidate is not None and figure.baseline is not None
    assert (figure.candidate < figure.baseline) == (verdict == "regressed")


def test_level_and_alone_are_no_failures() -> None:
    served = point("compressed", "ddim:5", 50, [0.81, 0.83, 0.8, 0.84], ("own",))
    level = frontier(point("dense", "ddim:5", 50, noisy(0.82)), served)
    alone = frontier(point("dense", "ddim:9", 90, noisy(0.9)), served)
    assert [figure.verdict for figure in judged(level, alone)] == ["pass", "pass"]


def test_what_was_not_measured_is_no_pass() -> None:
    served = point("compressed", "ddim:5", 30, None, ("own",))
    unjudged = frontier(point("dense", "ddim:5", 50), served)
    absent = frontier().model_copy(update={"absent": "no engine runs here"})
    figures = [*judged(), *judged(unjudged), *judged(absent)]
    assert [figure.verdict for figure in figures] == ["inconclusive"] * 3
    assert "diffc bench" in figures[0].note and figures[2].note == "no engine runs here"


@pytest.mark.slow
@pytest.mark.parametrize(("own", "code"), [("ddim:50", 1), ("ddim:5", 0)])
def test_a_check_asks_only_on_request(run, before, tmp_path, own, code) -> None:
    after = make_output(tmp_path / "after")
    content = [json.loads(half_cut(own).model_dump_json())]
    edit(after / "report.json", lambda report: report.update(frontiers=content))
    plain = run("check", after, "--baseline", before, *FAST, "--json")
    assert plain[0] == 0 and NAME not in figures_of(plain[1])
    asked = run("check", after, "--baseline", before, *FAST, "--require-ahead", "--json")
    assert asked[0] == code and figures_of(asked[1])[NAME]["verdict"] != "inconclusive"


def test_a_run_without_a_frontier_is_inconclusive(run, before, tmp_path) -> None:
    after = make_output(tmp_path / "after")
    code, said, _ = run("check", after, "--baseline", before, *FAST, "--require-ahead", "--json")
    assert code == 3 and figures_of(said)[NAME]["verdict"] == "inconclusive"
