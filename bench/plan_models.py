"""Plans of models at their real size, on the meta device: from config.json alone, no weights.

    python -m bench.plan_models CONFIGS [CONFIGS ...]      writes bench/results/plans.json

CONFIGS holds one folder per model with its config.json; bench/configs has those that nobody else
keeps. Widths are uniform (nothing is ranked without weights) and rounded as ``--target trt
--precision fp16`` wants them. The documentation takes its sizes from the result.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from diffc.errors import RequestError
from diffc.models.source import find_source
from diffc.prune.planning import chosen_widths, problem_of
from diffc.recipe import resolve
from diffc.stages.plan import alignment

RESULT = Path(__file__).parent / "results" / "plans.json"
RATIOS = (0.3, 0.5)


def main() -> None:
    """Plan every model and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    folders = [path.parent for root in args.configs for path in sorted(root.glob("*/config.json"))]
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "rounded_for": "trt, fp16",
        "models": {folder.name: planned(folder) for folder in folders},
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def planned(folder: Path) -> dict:
    """The model's dense cost, and its cost at every ratio; a ratio out of reach says so."""
    start = time.perf_counter()
    source = find_source(folder, need_weights=False)
    flags = {"build": {"target": ["trt"], "precision": "fp16"}}
    recipe = resolve(family=source.class_name, flags=flags)
    problem = problem_of(source, recipe, None, alignment(recipe))
    costs = problem.costs
    found = {
        "class_name": source.class_name,
        "groups": len(costs.groups),
        "align": problem.align,
        "dense": vars(costs.cost(costs.dense)),
        "ratios": {str(ratio): at(problem, ratio) for ratio in RATIOS},
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(folder.name, json.dumps(found), file=sys.stderr)
    return found


def at(problem, ratio: float) -> dict:
    """The cost with ``ratio`` of the MACs removed."""
    options = problem.options.model_copy(update={"ratio": ratio})
    try:
        widths = chosen_widths(replace(problem, options=options))
    except RequestError as error:
        return {"refused": str(error)}
    return vars(problem.costs.cost(widths))


if __name__ == "__main__":
    main()
