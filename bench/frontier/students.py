"""The models that bench.frontier compares: compressed, and students of loops of one and two calls.

    python -m bench.frontier.students FOLDER [base] [compressed-1] [dense-1] [compressed-2] ...

    base          the demo at half its MACs, distilled for any loop: FOLDER/base
    compressed-1  the same cut, distilled for ddim:1; compressed-2: for ddim:2
    dense-1       the whole dense model, distilled for ddim:1, in about as long; dense-2: for ddim:2

Each run that has ended stands in bench/results/students.json, with the processor seconds of its
stages; those of a stage that another run shares are at the run that did it.
"""

from __future__ import annotations

import argparse
import json
import resource
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import diffc
from diffc.measure.environment import read_environment

RESULT = Path(__file__).parents[1] / "results" / "students.json"


def student(calls: int, steps: int) -> dict[str, Any]:
    """The options of a student of a loop of so many calls."""
    loop = {"steps": steps, "trajectories": 2048, "teacher_steps": 12}
    aim = {"aim": "loop", "steps": 80, "quality_every": 0, "loop": loop}
    return {"loops": [f"ddim:{calls}"], "distill": aim}


RUNS: dict[str, tuple[float, dict[str, Any]]] = {
    "base": (
        0.5,
        {"loops": ["own"], "distill": {"aim": "all-steps", "steps": 320, "quality_every": 0}},
    ),
    "compressed-1": (0.5, student(calls=1, steps=700)),
    "dense-1": (0.0, student(calls=1, steps=330)),
    "compressed-2": (0.5, student(calls=2, steps=700)),
    "dense-2": (0.0, student(calls=2, steps=330)),
}


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="*", metavar="RUN", default=list(RUNS))
    args = parser.parse_args()
    for name in args.runs:
        row = {**train(args.folder / name, *RUNS[name]), "environment": machine()}
        rows = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        RESULT.write_text(json.dumps({**rows, name: row}, indent=1) + "\n")


def train(out: Path, ratio: float, options: dict[str, Any]) -> dict[str, Any]:
    """One run up to OUT/model; stage -> processor seconds, of child processes too."""
    started, seconds = {}, {}

    def note(event: diffc.runner.StageEvent) -> None:
        if event.kind == "started":
            started[event.stage] = processor_seconds()
        if event.done is not None and not event.done.cached:
            seconds[event.stage] = round(processor_seconds() - started[event.stage], 1)

    diffc.compile("demo", ratio=ratio, out=out, stop="distill", on_event=note, force=True,
                  recipe="unet2d", options=options)  # fmt: skip
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"date": date, "ratio": ratio, "options": options, "processor_seconds": seconds}


def processor_seconds() -> float:
    """Of this process and its children, in user and system mode."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def machine() -> dict[str, Any]:
    """The environment, as in every result."""
    return read_environment().model_dump(mode="json")


if __name__ == "__main__":
    main()
