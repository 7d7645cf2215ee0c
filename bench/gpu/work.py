"""What a job does, in a process of its own: ``python -m bench.gpu.work WHAT ... --answer FILE``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from diffc_runtime.files import write_text

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]


def environment(_args) -> dict:
    """``diffc doctor``, and what the driver says."""
    said = _output([sys.executable, "-m", "diffc", "doctor", "--json"])
    return {"doctor": json.loads(said), "nvidia_smi": _driver()}


def _driver() -> str:
    """nvidia-smi's own table, MIG slices included; or why there is none."""
    try:
        return _output(["nvidia-smi", "-L"]) + _output(["nvidia-smi"])
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        return f"{type(error).__name__}: {error}"


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def tests(args) -> dict:
    """The tests in tests/gpu: counts, and each skip's and failure's reason."""
    report = args.work / "gpu-tests.xml"
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", f"--junitxml={report}"]
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}  # another run's
    code = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
    if code not in (0, 1, 5) or not report.exists():  # passed, failed, none collected
        return {"failed": f"pytest ended with {code}"}
    return read_report(report)


def read_report(report: Path) -> dict:
    """pytest's own report: how many passed, failed and were skipped, and the reasons."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    count = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    bad = count["failures"] + count["errors"]
    reasons = {}
    for case in suite.iter("testcase"):
        for what in ("skipped", "failure", "error"):
            for found in case.iter(what):
                reasons[case.get("name")] = f"{what}: {found.get('message', '')[:300]}"
    counts = {"passed": count["tests"] - bad - count["skipped"], "failed": bad,
              "skipped": count["skipped"]}  # fmt: skip
    return {"counts": counts, "reasons": reasons}


def prepare(args) -> dict:
    """One network at one allocation: planned, cut, exported."""
    from .networks import network_folder
    from .variants import prepare as make

    folder = network_folder(args.network, args.work, small=args.small)
    return make(folder, args.allocation, args.work, args.precision, args.batch)


def measure(args) -> dict:
    """Every allocation's engine on one target, in turn with dense torch eager."""
    from .engines import measure as take

    place = args.work / args.network
    return take(place, args.target, args.batch, args.precision, args.timing, args.keep)


def anyway(args) -> dict:
    """TensorRT-RTX's portable engine on this GPU, listed or not."""
    from .engines import open_anyway

    return open_anyway(args.work / args.network / "dense", args.precision)


def memory(args) -> dict:
    """The dense and the ``latency`` engine's peak memory."""
    from .engines import memory as take

    return take(args.work / args.network, args.target, args.batch, args.precision, args.keep)


def speed(args) -> dict:
    """Distillation's images per second on CIFAR's UNet, teacher included."""
    from .networks import network_folder

    result = args.work / "distill-speed.json"
    rounds, steps, batch = (2, 1, 4) if args.small else (5, 20, 128)
    folder = network_folder("cifar", args.work, small=args.small)
    _bench("distill_speed", "--model", folder, "--rounds", rounds, "--steps", steps,
           "--batch", batch, "--out", result)  # fmt: skip
    return {"distillation": json.loads(result.read_text())}


def study(args) -> dict:
    """The quality study on CIFAR-10 (bench/quality): goes on from where it stopped."""
    from .networks import small_study_folder

    out = args.work / "quality"
    model, sizes = (small_study_folder(args.work), _SMALL_STUDY) if args.small else ("cifar", [])
    minutes = max(args.seconds - _STUDY_ENDS, 0.5 * args.seconds) / 60
    _bench("quality", "--model", model, "--data", args.data, "--minutes", minutes,
           "--work", args.work / "study", "--out", out, *sizes)  # fmt: skip
    result = out.with_suffix(".json")
    if not result.exists():
        return {"unfinished": "no row is done yet"}
    found = json.loads(result.read_text())
    picture = args.work.parent / "study" / "cifar-10.png"
    picture.parent.mkdir(exist_ok=True)
    shutil.copyfile(out.with_suffix(".png"), picture)
    answer = {"study": found, "table": out.with_suffix(".md").read_text()}
    return answer if found["complete"] else {**answer, "unfinished": "rows are missing"}


_STUDY_ENDS = 45.0  # seconds that starting it, its last checkpoint and its pictures may take
_SMALL_STUDY = ["--steps", 2, "--batch", 4, "--samples", 8, "--curve-samples", 4,
                "--sampling-steps", 3, "--train-images", 8, "--test-images", 32,
                "--classifier-epochs", 1, "--passes", 2]  # fmt: skip


def _bench(name: str, *arguments) -> None:
    command = [sys.executable, "-m", f"bench.{name}", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=ROOT)


WORK = {f.__name__: f for f in (environment, tests, prepare, measure, anyway, memory, speed, study)}


def main() -> None:
    """Do one piece of work and write its answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=list(WORK))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--answer", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    for name in ("network", "allocation", "target", "precision"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--timing", type=float, default=3.0, help="seconds of timing, at least")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long it may take")
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.keep = lambda found: _answer(args.answer, {**found, "unfinished": "it was still at work"})
    _answer(args.answer, WORK[args.what](args))


def _answer(path: Path, found: dict) -> None:
    """Written whole each time: the process may be killed at any moment."""
    write_text(path, json.dumps(found))


if __name__ == "__main__":
    main()
