"""What building and measuring add to the time that the measurements themselves need (<= 10 %).

    python -m bench.overhead                     the demo; writes bench/results/overhead.json
    python -m bench.overhead --out-folder OUT    engines of an output folder that is there already

``diffc bench OUT --fresh`` runs in a fresh process, and its wall time, from the interpreter's start
to its end, is taken apart:

    build      the runtime's own builder, as engine.json has it
    load       loading the engines (and torch with its model), the hashes of their files left out
    calls      engine calls and sampling loops: warm-up, timed rounds, parity
    rests      between torch's calls and the next engine's, while torch's threads spin down
    processes  the fresh processes whose memory is measured
    own        everything else: imports, keys, hashes, statistics, records, the report

``needed`` is all but ``own``; the share is own / needed. A run that reuses nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RESULT = Path(__file__).parent / "results" / "overhead.json"
LIMIT = 0.10
PREPARE: dict[str, Any] = {
    "data": {"images": 8, "steps": 4, "batch": 4},
    "prune": {"importance": {"passes": 4, "batch": 4, "grid": 4, "curve_images": 2}},
    "distill": {"steps": 0},
    "quality": {"images": 2},
    "reference_loop": "deterministic:2",
}
"""The network's widths matter here, not how good its images are."""


def main() -> None:
    """Take ``--runs`` runs apart; write and print the one with the median share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out-folder", type=Path, help="an output folder with OUT/onnx")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.child:
        return child(args.child)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DIFFC_CACHE"] = str(Path(scratch) / "cache")
        folder = args.out_folder or prepared(Path(scratch) / "out")
        load = os.getloadavg()
        runs = [taken_apart(folder) for _ in range(args.runs)]
        report = json.loads((folder / "report.json").read_text())
    median = statistics.median_low(run["share"] for run in runs)
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": "diffc bench OUT --fresh",
        "model": report["model"]["name"],
        "targets": [t["target"] for t in report["targets"]],
        "load_before": load,
        "limit": LIMIT,
        "share": median,
        "runs": runs,
        "stages": {s["name"]: round(s["seconds"], 2) for s in report["stages"]
                   if s["name"].startswith(("build", "bench", "explain"))},
        "environment": report["environment"],
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=1))
    return None


def prepared(out: Path) -> Path:
    """The demo, pruned and exported, ready to be built."""
    import diffc

    diffc.compile("demo", ratio=0.5, out=out, options=PREPARE, stop="export")
    return out


def taken_apart(folder: Path) -> dict[str, float]:
    """One run in a fresh process: seconds of each part, and the share."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bench.overhead", "--child", str(folder)],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    wall = time.perf_counter() - start
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    parts["build"] = build_seconds(folder)
    needed = sum(parts.values())
    return {"wall": wall, **parts, "own": wall - needed, "share": (wall - needed) / needed}


def build_seconds(folder: Path) -> float:
    """The builders' own time, of every engine in the folder."""
    infos = [json.loads(p.read_text()) for p in folder.glob("engines/*/*/engine.json")]
    return float(sum(info["build_seconds"] for info in infos))


class Clock:
    """Exclusive time by name: while an inner part runs, the outer one stands still."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block for ``name``."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def _book(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, counted for ``name``."""

        def wrapped(*args: Any, **options: Any) -> Any:
            with self.part(name):
                return call(*args, **options)

        return wrapped


def child(folder: Path) -> None:
    """Run the command with every part's time counted, and print them."""
    clock = Clock()
    watch(clock)
    from diffc.cli import main as diffc

    sys.argv = ["diffc", "bench", str(folder), "--fresh", "--quiet"]
    try:
        diffc()
    except SystemExit as end:
        if end.code:
            raise
    kept = {name: clock.seconds[name] for name in ("load", "calls", "rests", "processes")}
    print(json.dumps(kept))


def watch(clock: Clock) -> None:
    """Put the clock around what the measurements need."""
    from diffc.measure import compare, engines, explain, latency, loop, memory
    from diffc_export.targets import engine, names, target

    for name in names():
        found: Any = target(name)
        found.load = clock.timed("load", found.load)
    engine.check_files = clock.timed("hashes", engine.check_files)
    rest = clock.timed("rests", time.sleep)
    latency.time = SimpleNamespace(perf_counter=time.perf_counter, sleep=rest)
    memory._probed = clock.timed("processes", memory._probed)
    explain._call = clock.timed("load", explain._call)
    for module in (engines, loop, explain):
        module.interleaved = _interleaved(clock, module.interleaved)
    compare.parities = _parity(clock, compare.parities)


def _interleaved(clock: Clock, original: Callable[..., Any]) -> Callable[..., Any]:
    def interleaved(calls: dict[str, Callable[[], float]], *more: Any, **named: Any) -> Any:
        timed = {name: clock.timed("calls", call) for name, call in calls.items()}
        return original(timed, *more, **named)

    return interleaved


def _parity(clock: Clock, original: Callable[..., Any]) -> Callable[..., Any]:
    class Timed:
        """A runner whose calls are counted."""

        def __init__(self, runner: Any) -> None:
            self.info = runner.info
            self._call = clock.timed("calls", runner.__call__)

        def __call__(self, inputs: Any) -> Any:
            return self._call(inputs)

    def parities(runner: Any, reference: Path) -> Any:
        return original(Timed(runner), reference)

    return parities


if __name__ == "__main__":
    main()
