"""Writes the answers that ship: diffc/shipped/answers.json.

    python scripts/fill_answers.py

To be run after a change of what plan or inspect says of a model that ships;
tests/cli/test_shipped_answers.py fails until then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from diffc.cli.command import Command
from diffc.cli.inspect import inspect_answer, plan_answer
from diffc.cli.run import resolve_command
from diffc.cli.shipped_answers import ANSWERS, question
from diffc.models.shipped import shipped_models
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc_runtime.json_types import JsonDict

RATIOS = (0.2, 0.3, 0.5)
"""Those of the help's examples."""
NO_SCORES = Path("no-scores")


def questions() -> Iterator[tuple[str, Source, Recipe]]:
    """Verb, model and recipe of every answer that ships."""
    for name in shipped_models():
        command = Command(model=name)
        yield "inspect", *resolve_command(command, need_weights=False)[:2]
        for cut in ("width", "width,depth"):
            command = Command({"prune": {"cut": cut}}, model=name)
            yield "reach", *resolve_command(command, need_weights=False)[:2]
        for ratio in RATIOS:
            command = Command({"prune": {"ratio": ratio}}, model=name)
            yield "plan", *resolve_command(command, need_weights=False)[:2]


def reach_answer(source: Source, recipe: Recipe, _scores: Path) -> JsonDict:
    """The share of each measure that stays at the least, and the dense model's memory."""
    from diffc.prune.allocate import Limits, reach_of
    from diffc.prune.planning import measures_of, problem_of
    from diffc.stages.plan import alignment

    depth = recipe.prune.cuts_depth  # a run scores branches before it plans
    problem = problem_of(source, recipe, None, alignment(recipe), will_rank=depth)
    costs, bounds = problem.costs, Limits(problem.bounds.step, problem.least)
    measures = measures_of(costs).items()
    reaches = {name: reach_of(costs, bounds, measure) for name, measure in measures}
    assert not any(reach.fixed for reach in reaches.values())  # else its name would be missing
    stays = {name: reach.stays for name, reach in reaches.items()}
    return {"stays": stays, "dense_memory": costs.memory(costs.dense)}


def answers() -> dict[str, object]:
    """Every answer by its question, worked out now."""
    work = {"inspect": inspect_answer, "plan": plan_answer, "reach": reach_answer}
    return {
        question(verb, source, recipe): work[verb](source, recipe, NO_SCORES)
        for verb, source, recipe in questions()
    }


if __name__ == "__main__":
    ANSWERS.write_text(json.dumps(answers(), separators=(",", ":")) + "\n")
