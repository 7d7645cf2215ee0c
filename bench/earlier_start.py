"""Short commands of diffc beside those of an earlier revision: processor seconds, in turn.

    python -m bench.earlier_start [--revision c72a797] [--pairs 21]
                                             writes bench/results/earlier_start.json

The commands are ``diffc --help`` and a ``compile demo`` that reuses every stage. Each revision is
checked out into a folder of its own, compiles the demo with few images and steps into a cache of
its own, and then both take turns. A ratio is the median of the pairs' ratios. The work that the
compilation reuses is not the same: the present one has more stages.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from diffc.measure.environment import read_environment
from diffc.measure.statistics import paired_ratio

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "earlier_start.json"
FIRST = "c72a797"
"""The revision before the redesign of the code (issue 19)."""
FEW = """
data: {images: 64, steps: 5}
prune: {importance: {grid: 5, curve_images: 4, passes: 8, batch: 4}}
quality: {images: 4, steps: 5}
"""
EARLIER = f"""{FEW}
family: UNet2DModel
distill: {{steps: 4, quality_every: 0}}
measure: {{runs: 10, seconds: 0.2, loop_steps: 2, loop_runs: 3}}
"""
PRESENT = f"""{FEW}
extends: demo
distill: {{steps: 0, loop: {{steps: 4, batch: 8, trajectories: 16, teacher_steps: 4}}}}
"""


@dataclass(frozen=True)
class Revision:
    """One state of the code.

    Attributes:
        path: The folders that Python imports it from.
        folder: For its recipe, its cache and its output.
        recipe: Few images and steps, in the words of its time.
    """

    path: Sequence[Path]
    folder: Path
    recipe: str

    def seconds(self, *words: str) -> float:
        """The processor seconds of one command, in a fresh process.

        Raises:
            RuntimeError: The command failed.
        """
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        paths = os.pathsep.join(map(str, self.path))
        cache = str(self.folder / "cache")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "diffc", *words],
            cwd=self.folder,
            env={**kept, "PYTHONPATH": paths, "DIFFC_CACHE": cache},
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"diffc {' '.join(words)}: exit {done.returncode}\n{done.stderr}")
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def compile_words(self) -> list[str]:
        """The command that compiles the demo by the recipe, which is written."""
        recipe = self.folder / "few.yaml"
        recipe.write_text(self.recipe)
        out = self.folder / "out"
        return ["compile", "demo", "--recipe", str(recipe), "--ratio", "0.5", "--out", str(out)]


def main() -> None:
    """Compile the demo with both, time the commands, write and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--revision", default=FIRST)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), args.revision, args.pairs)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for command, row in result["commands"].items():
        print(f"diffc {command}: {row['ratio']['median']:.2f} {row['ratio']['ci95']}")


def compare(folder: Path, revision: str, pairs: int) -> dict:
    """Both revisions' commands in turn.

    Args:
        folder: For everything that is made.
        revision: The earlier one, as git names it.
        pairs: Of times of each command.
    """
    tree = folder / "tree"
    git = ["git", "-C", str(ROOT)]
    subprocess.run([*git, "worktree", "add", "--detach", str(tree), revision], check=True)
    try:
        earlier = Revision([tree], folder / "earlier", EARLIER)
        present = Revision([ROOT, ROOT / "export"], folder / "present", PRESENT)
        for one in (earlier, present):
            one.folder.mkdir()
            one.seconds(*one.compile_words())
        load = os.getloadavg()
        commands = {
            "--help": timed(earlier, present, ["--help"], ["--help"], pairs),
            "compile demo, every stage reused": timed(
                earlier, present, earlier.compile_words(), present.compile_words(), pairs
            ),
        }
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": read_environment().model_dump(mode="json"),
        "load_before": load,
        "revision": revision,
        "commands": commands,
    }


def timed(
    earlier: Revision, present: Revision, before: list[str], now: list[str], pairs: int
) -> dict:
    """A command's processor seconds of both revisions, and the ratio of the present to the earlier.

    Args:
        earlier: The earlier revision.
        present: The present one.
        before: The words of the earlier one's command.
        now: Those of the present one's.
        pairs: How many pairs.
    """
    turns = [(earlier, before), (present, now)]
    for one, words in turns:  # bytecode is written, files are in the system's cache
        one.seconds(*words)
    taken: dict[str, list[float]] = {"earlier": [], "present": []}
    for number in range(pairs):
        names = list(zip(taken, turns, strict=True))
        for name, (one, words) in names if number % 2 else names[::-1]:
            taken[name].append(one.seconds(*words))
    ratio = paired_ratio(np.asarray(taken["present"]), np.asarray(taken["earlier"]))
    return {
        "processor_seconds": taken,
        "medians": {name: float(np.median(values)) for name, values in taken.items()},
        "ratio": {"median": ratio.median, "ci95": ratio.ci95},
    }


if __name__ == "__main__":
    main()
