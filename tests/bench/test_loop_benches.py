"""The benchmarks of the search and of guidance carried: what they choose, draw and say."""

from __future__ import annotations

import pytest

from bench import guided, search
from diffc.measure.frontier.results import Point, PointFigure
from diffc.measure.results import Latency
from diffc.models.shipped import shipped_prompts
from diffc.trials.results import CandidateResult, TrialRecord
from scripts import train_demo_text as made


def candidate(ratio: str, loop: str, ms: float, ssim: float) -> CandidateResult:
    latency = Latency(p50=ms, p90=ms, p95=ms, p99=ms, mean=ms, n=5)
    point = Point(side="compressed", loop=loop, calls=1, roles=["grid"], latency_ms=latency,
                  figures={"ssim": PointFigure(value=ssim)})  # fmt: skip
    values = {"ratio": ratio, "precision": "fp32", "loop": loop}
    return CandidateResult(values=values, point=point, reaches=True)


class Result:
    """What the benchmark reads of a search."""

    def __init__(self, candidates, trials, chosen=None) -> None:
        self.candidates, self.trials, self.chosen = candidates, trials, chosen

    def candidate(self, values):
        return next((one for one in self.candidates if one.values == values), None)


POINTS = [candidate("0.5", "a:1", 10, 0.4), candidate("0.2", "a:1", 16, 0.6),
          candidate("0.5", "a:2", 20, 0.5), candidate("0.2", "a:2", 32, 0.8)]  # fmt: skip
TRIALS = [
    TrialRecord(values={"ratio": ratio}, steps=9, seconds=own + 5, stages={ratio: own, "both": 5})
    for ratio, own in (("0.2", 40.0), ("0.5", 30.0))
]


def test_goals_are_what_the_front_reaches_and_halfway() -> None:
    assert search.goals_of(Result(POINTS, []), 9) == [0.4, 0.5, 0.6, 0.7, 0.8]
    assert search.goals_of(Result(POINTS, []), 2) == [0.4, 0.8]


def test_shared_stages_count_once_and_points_alone_pay_for_themselves(tmp_path) -> None:
    seconds = search.Seconds(tmp_path / "seconds.json")
    brute = Result(POINTS, TRIALS)
    found = Result([], TRIALS[:1], POINTS[3].values)
    assert (seconds.of(brute.trials), seconds.alone(brute)) == (75, 2 * 45 + 2 * 35)
    row = search.compared(0.55, found, brute, seconds)
    assert (row["best"], row["chosen"], row["latency"]) == ("0.2 fp32 a:1", "0.2 fp32 a:2", 2)
    assert row["of_shared"] == pytest.approx(45 / 75)
    assert row["of_each_alone"] == pytest.approx(45 / 160)
    table = search.table({"trainings": 2, "rows": [row]})
    assert "| 2.000 | 1 of 2 | 28.1% | 60% |" in table


def test_every_shipped_prompt_has_a_meaning_and_other_words_for_it() -> None:
    wanted = guided.Wanted.of(160)
    prompts = shipped_prompts("demo-text").read_text("utf-8").split("\n")
    assert wanted.texts[:80] == [text for text in prompts if text]
    assert not set(wanted.texts[:80]) & set(wanted.texts[80:])
    pairs = list(zip(wanted.colours.tolist(), wanted.things.tolist(), strict=True))
    assert len(set(pairs[:80])) == len(made.COLOURS) * len(made.THINGS) and pairs[:80] == pairs[80:]
    assert [guided.meaning(text) for text in wanted.texts] == pairs
    assert wanted.known.tolist() == [True] * 80 + [False] * 80
    assert guided.meaning("a red ankle boot") == guided.meaning("a boot in red") == (0, 9)
    assert guided.meaning("one blue t-shirt on black") == (2, 0)
