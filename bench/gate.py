"""How often the gate is right on a noisy machine: bench/results/gate.json.

    python -m bench.gate trials --work FOLDER --seconds 200     again and again: it goes on
    python -m bench.gate slowdowns --work FOLDER
    python -m bench.gate summary

trials      an unchanged engine (a random UNet2DModel, about 5 ms on one thread) against itself,
            each side loaded anew for every trial, while ``--busy`` other processes keep computing:
            the baseline against itself, then the rule. Every pair of times is kept.
            ``+8 %`` and ``+10 %`` are the same real pairs with the candidate's times multiplied:
            the noise is real, the slowdown exact. Where the rule would want more pairs for them
            than the unchanged engine took, they are taken, up to the rule's own cap.
slowdowns   real ones, through the whole check: a wider model, an extra operator, one thread fewer
summary     gate.json from what was recorded
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from diffc.gate.check import CheckRequest, check, in_turn
from diffc.gate.limits import limits_of
from diffc.gate.outputs import sentence
from diffc.gate.rule import RuleOptions, compare_calls, looks, same_calls, slower
from diffc.gate.subject import open_side
from diffc.measure.engines import open_engines
from diffc.measure.environment import read_environment
from diffc.measure.inputs import example_inputs
from diffc.measure.statistics import paired_ratio
from diffc.recipe import CheckSection
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions

RESULTS = Path(__file__).parent / "results"
TRIALS, SLOWDOWNS = RESULTS / "gate-trials.jsonl", RESULTS / "gate-slowdowns.json"
SLOWER = (8, 10)  # percent
_LOAD = "import numpy as np\na = np.random.rand(700, 700)\nwhile True: a @ a"


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("trials", "slowdowns", "summary"))
    parser.add_argument("--work", type=Path, help="where engines are kept between runs")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--busy", type=int, default=1, help="other processes that compute")
    parser.add_argument(
        "--by", default="", help="what they are, where they run already: none are started here"
    )
    options = parser.parse_args()
    if options.what == "trials":
        with busy_cores(0 if options.by else options.busy):
            trials(options.work, options.seconds, options.busy, options.by)
    elif options.what == "slowdowns":
        slowdowns(options.work)
    summary()


@contextmanager
def busy_cores(number: int):
    """Other processes that compute all the time, on one thread each."""
    env = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, "-c", _LOAD], env=env) for _ in range(number)]
    try:
        time.sleep(1.0)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def trials(work: Path, seconds: float, busy: int, by: str = "") -> None:
    """Add trials to the record until ``seconds`` have passed."""
    engine = built(work, "base", threads=1)
    end = time.perf_counter() + seconds
    number = len(read_trials())
    while time.perf_counter() < end:
        row = {"busy": busy, "by": by or "matrix products", **trial(engine, number)}
        with TRIALS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        number += 1
    print(f"{number} trials")


def trial(engine: Path, seed: int) -> dict:
    """One: the verdict as the gate gives it, then the pairs that the slower ones would ask for."""
    rule = RuleOptions(seed=seed)
    start = time.perf_counter()
    with open_engines(in_turn({"candidate": engine, "baseline": engine}, seed), None) as runners:
        calls = {n: r.bind(example_inputs(r.info, 1)).run for n, r in runners.items()}
        same = drain(same_calls(calls["baseline"], calls["candidate"], rule))
    with open_engines(in_turn({"candidate": engine, "baseline": engine}, seed), None) as runners:
        calls = {n: r.bind(example_inputs(r.info, 1)).run for n, r in runners.items()}
        found = drain(compare_calls(calls["candidate"], calls["baseline"], rule))
        taken = time.perf_counter() - start
        pairs, look = found.paired, looks(calls["candidate"], calls["baseline"], rule)
        while len(pairs) < rule.most_pairs and undecided(pairs, seed):
            more = drain(look(min(len(pairs), rule.most_pairs - len(pairs)), len(pairs)))
            extra = np.column_stack(
                [more.round_medians("candidate"), more.round_medians("baseline")]
            )
            pairs = np.concatenate([pairs, extra])
    return {
        "seed": seed,
        "load_average": round(os.getloadavg()[0], 2),
        "fit": same.verdict,
        "fit_pairs": same.ratio.pairs,
        "verdict": found.verdict,
        "pairs": found.ratio.pairs,
        "seconds": round(taken, 3),
        "p90_over_p50": float(np.percentile(found.baseline, 90) / np.median(found.baseline)),
        "us": [[round(t * 1e6, 1) for t in pair] for pair in pairs],
    }


def read_trials() -> list[dict]:
    """What was recorded."""
    return [json.loads(line) for line in TRIALS.open()] if TRIALS.exists() else []


def undecided(pairs: np.ndarray, seed: int) -> bool:
    """Whether the rule asks for more pairs under one of the slowdowns."""
    row = {"us": pairs, "seed": seed}
    return any(replayed(row, 1 + p / 100)[0] == "inconclusive" for p in SLOWER)


def replayed(row: dict, factor: float, limit: float = 0.05) -> tuple[str, int]:
    """The rule's verdict on a trial's own pairs, the candidate's times multiplied by ``factor``."""
    pairs = np.asarray(row["us"])
    n = 20
    while True:
        ratio = paired_ratio(pairs[:n, 0] * factor, pairs[:n, 1], row["seed"])
        verdict = slower(ratio, limit)
        if verdict != "inconclusive" or n >= len(pairs):
            return verdict, n
        n = min(2 * n, len(pairs))


def built(work: Path, name: str, threads: int, width: int = 32, extra: bool = False) -> Path:
    """An ort-cpu engine of a random UNet2DModel, kept in ``work``."""
    engine = work / f"{name}-{threads}"
    if not (engine / "engine.json").is_file():
        onnx = work / "onnx" / name
        if not (onnx / "model.json").is_file():
            _export(onnx, width)
        if extra:
            _add_operator(onnx)
        drain(target("ort-cpu").build(onnx, BuildOptions(threads=threads), engine))
    return engine


def _export(folder: Path, width: int) -> None:
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    from diffc.models.families import family
    from diffc.models.onnx_export import export_denoiser

    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=1,
        block_out_channels=(width, 2 * width, 2 * width), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    found = family("UNet2DModel")
    facts = {"scheduler": dict(DDPMScheduler().config), "prediction": "epsilon",
             "parameters": sum(p.numel() for p in model.parameters()), "macs": 0}  # fmt: skip
    export_denoiser(model, found, found.specs(dict(model.config), None), folder, facts=facts)


def _add_operator(folder: Path) -> None:
    """A 5x5 convolution with an identity kernel after the first one: the same output, slower."""
    import onnx
    from onnx import helper, numpy_helper

    path = folder / "model.onnx"
    model = onnx.load(path)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(t for t in model.graph.initializer if t.name == first.input[1])
    channels = weight.dims[0]
    kernel = np.zeros((channels, channels, 5, 5), np.float32)
    kernel[np.arange(channels), np.arange(channels), 2, 2] = 1
    model.graph.initializer.append(numpy_helper.from_array(kernel, "extra.weight"))
    name = first.output[0]
    first.output[0] = f"{name}.before"
    extra = helper.make_node("Conv", [f"{name}.before", "extra.weight"], [name], pads=[2] * 4)
    model.graph.node.insert(list(model.graph.node).index(first) + 1, extra)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    content = json.loads((folder / "model.json").read_text())
    content.pop("sha256")
    (folder / "model.json").write_text(json.dumps(content))


def slowdowns(work: Path) -> None:
    """Each real slowdown through the whole check; the last one needs both cores."""
    cases = {
        "unchanged": (built(work, "base", 1), built(work, "base", 1), 1),
        "wider model (32 -> 40 channels)": (
            built(work, "wider", 1, width=40), built(work, "base", 1), 1),
        "an extra 5x5 convolution": (
            built(work, "extra", 1, extra=True), built(work, "base", 1), 1),
        "one thread fewer (2 -> 1)": (built(work, "base", 1), built(work, "base", 2), 0),
    }  # fmt: skip
    rows = []
    for name, (candidate, baseline, busy) in cases.items():
        with busy_cores(busy):
            rows.append(_slowdown(name, candidate, baseline, busy))
        print(rows[-1])
    SLOWDOWNS.write_text(json.dumps(rows, indent=1) + "\n")


def _slowdown(name: str, candidate: Path, baseline: Path, busy: int) -> dict:
    request = CheckRequest(
        open_side(candidate), open_side(baseline), limits_of(CheckSection()), RuleOptions()
    )
    result = drain(check(request))
    figure = next(f for f in result.figures if f.name == "latency p50")
    return {
        "case": name,
        "busy": busy,
        "latency": figure.verdict,
        "ratio": figure.ratio,
        "ci99": figure.ci99,
        "pairs": figure.pairs,
        "verdict": result.verdict,
        "why": [sentence(f) for f in result.worst],
        "seconds": round(result.seconds, 1),
    }


def summary() -> None:
    """gate.json: rates over the trials recorded so far, and the real slowdowns."""
    rows = read_trials()
    if not rows:
        return
    loads = sorted({(row["busy"], row["by"]) for row in rows})
    found = {
        "engine": "random UNet2DModel, 32x32x3, ort-cpu, 1 thread",
        "limit": "5 %",
        "trials": [_of_load(rows, *load) for load in loads],
        "slowdowns": json.loads(SLOWDOWNS.read_text()) if SLOWDOWNS.exists() else None,
        "environment": read_environment().model_dump(mode="json"),
    }
    (RESULTS / "gate.json").write_text(json.dumps(found, indent=1) + "\n")
    shown = {k: v for k, v in found.items() if k != "environment"}
    print(json.dumps(shown, indent=1))


def _of_load(rows: list[dict], busy: int, by: str) -> dict:
    """The rates of the trials under one load."""
    rows = [row for row in rows if (row["busy"], row["by"]) == (busy, by)]
    changed = {f"+{p} %": [replayed(row, 1 + p / 100) for row in rows] for p in SLOWER}
    return {
        "other_processes_computing": busy,
        "by": by,
        "trials": len(rows),
        "p50_ms": round(float(np.median([np.median(r["us"], axis=0)[1] for r in rows])) / 1e3, 3),
        "p90_over_p50_median": statistics.median(row["p90_over_p50"] for row in rows),
        "unchanged, as the gate ran": {
            **_rates([row["verdict"] for row in rows]),
            "machine_unfit": sum(row["fit"] == "unfit" for row in rows),
            "median_pairs": statistics.median(row["pairs"] for row in rows),
        },
        "seconds_to_verdict": {
            "median": statistics.median(row["seconds"] for row in rows),
            "max": max(row["seconds"] for row in rows),
            "what": "both engines loaded twice, A against A, and the rule",
        },
        **{
            f"{name}, the same pairs scaled": _rates([verdict for verdict, _ in verdicts])
            | {"median_pairs": statistics.median(pairs for _, pairs in verdicts)}
            for name, verdicts in changed.items()
        },
        "other_rules_on_the_first_20_pairs": _others(rows),
    }


def _rates(verdicts: list[str]) -> dict[str, float]:
    n = len(verdicts)
    return {name: round(verdicts.count(name) / n, 4)
            for name in ("pass", "regressed", "inconclusive")}  # fmt: skip


def _others(rows: list[dict]) -> dict[str, dict[str, float]]:
    """What simpler rules would have said: their alarms on unchanged pairs, and +10 % found."""
    rules = {
        "mean > 5 %": lambda c, b: c.mean() / b.mean() > 1.05,
        "median > 5 %": lambda c, b: np.median(c) / np.median(b) > 1.05,
    }
    found = {}
    for name, rule in rules.items():
        pairs = [np.asarray(row["us"]) for row in rows]
        alarms = statistics.mean(bool(rule(p[:20, 0], p[:20, 1])) for p in pairs)
        caught = statistics.mean(bool(rule(p[:20, 0] * 1.1, p[:20, 1])) for p in pairs)
        found[name] = {"false_alarms": round(alarms, 4), "+10 % found": round(caught, 4)}
    return found


if __name__ == "__main__":
    main()
