"""Sections of docs/results.md: search beside brute force, guidance carried, LoRAs by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from page_parts import day, machine, percent, table

RESULTS = Path(__file__).resolve().parents[1] / "bench" / "results"


def search(found: dict[str, Any]) -> list[str]:
    lines = []
    for aim, study in found.items():
        axes = ", ".join(f"{name} {' '.join(words)}" for name, words in study["axes"].items())
        rows = [
            [
                f"{one['min_ssim']:.3f}",
                one["chosen"] or "-",
                one["best"],
                "-" if one["latency"] is None else f"{one['latency']:.3f}",
                f"{one['trainings']} of {study['trainings']}",
                f"{one['of_each_alone']:.1%}".replace("%", " %"),
                f"{one['of_shared']:.0%}".replace("%", " %"),
            ]
            for one in study["rows"]
        ]
        points = math.prod(len(words) for words in study["axes"].values())
        left = len(study["points"])
        passed = f"{left} passed parity and were" if left < points else "all were"
        heads = ["SSIM at least", "search chooses", "the best", "its time over the best's",
                 "trainings", "of each point alone", "of shared trainings"]  # fmt: skip
        lines += [
            f"### Trained for {'any loop' if aim == 'all-steps' else 'one loop'}\n",
            machine(study["environment"], day(study)),
            f"The demo on {study['target']}; {axes}; {study['images']} images a point, trainings "
            f"of {study['steps'] + study['loop_steps']} steps. Brute force measures every point: "
            f"of {points}, {passed} timed and judged. "
            "Shares are of the processor seconds of its trainings: as if each point were compiled "
            "alone, and with every stage shared that can be.\n",
            *table(heads, rows),
        ]
    return lines


def guided(found: dict[str, Any]) -> list[str]:
    rows = [
        [
            one["model"],
            one["loop"],
            str(one["calls"]),
            f"{one['cost']:.2f}",
            f"{percent(one['obeys'])} ± {100 * one['obeys_se']:.1f}",
            percent(one["obeys_reworded"]),
            f"{one['to_dense']['value']:.2f} ± {one['to_dense']['se']:.2f}",
            f"{one['to_test']['value']:.2f} ± {one['to_test']['se']:.2f}",
            f"{one['ssim']:.3f}",
        ]
        for one in found["rows"]
    ]
    heads = ["", "loop", "calls", "cost", "obeys", "in other words", "Frechet to the dense loop",
             "to test images", "SSIM"]  # fmt: skip
    lines = [
        machine(found["environment"], day(found)),
        f"demo-text with {percent(found['ratio'])} of its MACs cut, {found['images']} images a row "
        "from the same noise and prompts; cost in calls of the dense model, by "
        f"{found['target']}; obeys: a classifier, right for "
        f"{percent(found['classifier_accuracy'])} of the test images, sees the prompt's colour and "
        "thing; in other words: prompts in wordings that no training had.\n",
        *table(heads, rows),
    ]
    if len(found["rows"]) > 3 and (RESULTS / "guided.png").exists():
        lines.append("![a line for each row](images/results/guided.png)\n")
    return lines


def loras(found: dict[str, Any]) -> list[str]:
    rows = [
        [
            name,
            runtime,
            f"{one['call_ms']:.2f}",
            f"{one['picked']['a']:.3f}, {one['picked']['b']:.3f}",
            f"{one['picked']['same']:.3f}",
            f"{one['open_s']:.2f}",
            "yes" if one["a_b_a"] else "no",
            f"{one['fused']:.1e}",
            f"{one['weights']:.2f}",
            f"{one['low_rank']:.2f}",
        ]
        for name, model in found["models"].items()
        for runtime, one in model.items()
        if isinstance(one, dict)
    ]
    heads = ["", "", "call (ms)", "with LoRA a, b", "a second copy", "opened in (s)",
             "A, B, A equal", "to torch", "weights as inputs", "A and B as inputs"]  # fmt: skip
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return [
        f"*{found['cpu']}, {found['threads']} thread; {versions}; load {found['load_average']:.1f} "
        f"before; {day(found)}*\n",
        f"A LoRA of rank {found['rank']} in every linear layer, picked by name in a call, over the "
        "same engine without: medians of pairs of calls in turn, in processor time. A second copy "
        "of the engine is what the ratios may differ from 1 by chance. The last two are layouts "
        "that were tried in its place, in which the graph has more inputs.\n",
        *table(heads, rows),
    ]
