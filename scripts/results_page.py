"""docs/results.md from the committed results: nobody types a figure there.

    python scripts/results_page.py            writes the page and copies its pictures
    python scripts/results_page.py --check    fails when the page is not what this script makes

The five figures to read first stand at the top (page_first.py); all others are folded. One function
per file of bench/results; a file that is not there is a section that says so. GPUs are
page_gpu.py's; page_parts.py holds what all of them write with.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_first
import page_gpu
from page_loops import guided, loras, search
from page_memory import (
    fp32_layers,
    full_size,
    full_size_blocks,
    full_size_engines,
    full_size_int8,
    full_size_run,
    full_size_sdxl,
    ort_memory,
    training_memory,
)
from page_parts import day, fold, loops, machine, percent, ratio, table
from page_plans import latency_plans
from page_second_order import second_order
from page_serving import serving
from page_start import earlier_start
from page_transformer import transformer

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "results.md"
PICTURES = ROOT / "docs" / "images" / "results"

HEAD = """# Results

Made by `scripts/results_page.py` from the files in `bench/results/`, which the scripts in `bench/`
wrote; nothing here was typed by hand. Speed-ups are medians of paired ratios, engines timed in turn
in one process; intervals are 95 % bootstraps. Each section says on what machine and when, as far as
its file does. Five figures come first; the tables behind each heading are folded.
"""


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = page(copy=not args.check)
    if not args.check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit("docs/results.md is not what bench/results give: run scripts/results_page.py")


def page(*, copy: bool = False) -> str:
    """The whole page. copy: put the pictures where the page finds them."""
    parts = [HEAD, *page_first.first_rows(RESULTS)]
    for file, title, make in SECTIONS:
        path = RESULTS / file
        parts.append(f"## {title}\n")
        if path.exists():
            parts += [*fold(make(json.loads(path.read_text()))), ""]
        else:
            parts.append(f"Not measured yet: there is no `bench/results/{file}`.\n")
    parts += gpus(copy)
    for name in SHOWN if copy else ():
        if (RESULTS / name).exists():
            _copy(RESULTS / name, name)
    return "\n".join(parts).rstrip() + "\n"


# --- one function per file ------------------------------------------------------------------------


def demo(found: dict[str, Any]) -> list[str]:
    ssim = found["quality"]["ssim"]
    return [
        machine(found["environment"], day(found)),
        f"`{found['command']}`, by `bench/demo.py`:\n",
        *table(["", ""], [
            ["whole job", f"{found['seconds']:.0f} s"],
            ["peak memory", f"{found['peak_memory_bytes'] / 1e9:.2f} GB"],
            ["the same command again", f"{found['cached_seconds']['median']:.2f} s"],
            ["MACs left", percent(found["macs_left"])],
            ["speed-up of an engine call", ratio(found["speedup"])],
            ["speed-up of one image", ratio(found["loop_speedup"])],
            [f"SSIM of {ssim['n']} images, {ssim['loop']} to dense {ssim['reference_loop']}",
             f"{ssim['mean']:.3f} [{ssim['ci95'][0]:.3f}, {ssim['ci95'][1]:.3f}]"],
        ]),
    ]  # fmt: skip


def pruning(found: dict[str, Any]) -> list[str]:
    sections = found["sections"]
    makers: dict[str, Callable[[dict[str, Any]], list[str]]] = {
        "sizes": _sizes, "budget": _budget, "sdxl": _sdxl, "latency": _latency,
        "heldout": _heldout, "passes": _passes,
    }  # fmt: skip
    lines = []
    for name, make in makers.items():
        if name in sections:
            section = sections[name]
            lines += [*make(section), machine(section["environment"], day(section))]
    return lines


def _sizes(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in found.items():
        if not isinstance(row, dict) or "published" not in row:
            continue
        published, got, off = row["published"]["pruned"], row["pruned"], row["off"]
        rows.append([name, f"{published[0]} M, {published[1]} G", f"{got[0]:.2f} M, {got[1]:.2f} G",
                     f"{off[0]:+.2%}, {off[1]:+.2%}"])  # fmt: skip
    return ["### The paper's sizes\n",
            "`--ratio-of channels --ratio 0.3 --rounding paper`: parameters, MACs.\n",
            *table(["", "published", "planned", "off"], rows)]  # fmt: skip


def _budget(found: dict[str, Any]) -> list[str]:
    rows = [[name, f"{row['asked'][0]} to {row['asked'][-1]}", f"{row['worst']:.2%}",
             "yes" if row["monotone"] else "no"]
            for name, row in found.items() if isinstance(row, dict) and "asked" in row]  # fmt: skip
    heads = ["", "ratios", "worst miss, of dense MACs", "monotone"]
    return ["### Budgets\n", *table(heads, rows)]


def _sdxl(found: dict[str, Any]) -> list[str]:
    return [f"SDXL's UNet ({found['groups']:.0f} groups) is planned in {found['seconds']:.1f} s "
            f"and {found['peak_rss_bytes'] / 1e9:.2f} GB.\n"]  # fmt: skip


def _latency(found: dict[str, Any]) -> list[str]:
    timed = {k: row for k, row in found.items() if isinstance(row, dict) and "efficiency" in row}
    rows = [[name, percent(row["macs_left"]), f"{row['ms']:.1f}",
             ratio({"median": row["speedup"], "ci95": row["ci95"]}), f"{row['efficiency']:.3f}"]
            for name, row in timed.items()]  # fmt: skip
    heads = ["CIFAR's UNet on ort-cpu", "MACs left", "ms", "speed-up", "efficiency"]
    return ["### Widths that turn into time\n",
            f"{found['threads']} thread(s), random weights; efficiency is the speed-up times the "
            "MACs left. `own` is the network as published: its 32 normalisation groups make every "
            "width a multiple of 32. `one group` has one, so that other widths can be cut.\n",
            *table(heads, rows)]  # fmt: skip


def _heldout(found: dict[str, Any]) -> list[str]:
    lines = [
        "### Held-out error without finetuning\n",
        "The demo's mean squared noise error on Fashion-MNIST's test images, mean (each seed); "
        f"dense: {found['dense']:.4f}. `ours` is the default score, `squared-loss` the default "
        "until November 2026. Uniform: the same share of every layer, as published; global: "
        "widths by importance; repaired: closed-form weights after the cut.\n",
    ]
    cuts = sorted(key for key in found if key.startswith("cut "))
    rows = []
    for name in dict.fromkeys(name for cut in cuts for name in found[cut]):
        each = [found[cut].get(name) for cut in cuts]
        rows.append([name, *(f"{row['mean']:.4f} ({', '.join(f'{e:.3f}' for e in row['errors'])})"
                             if row else "" for row in each)])  # fmt: skip
    heads = ["", *(f"{float(cut.split()[1]):.0%} of the MACs cut".replace("%", " %")
                   for cut in cuts)]  # fmt: skip
    if older := found.get("older"):
        lines.append(f"Of {older['date']}: {', '.join(older['rows'])}, and all seeds but the first "
                     f"of {', '.join(older['seeds'])}.\n")  # fmt: skip
    return [*lines, *table(heads, rows)]


def _passes(found: dict[str, Any]) -> list[str]:
    rows = [[row["passes"], f"{row['all']:.3f}", f"{row['per_group']:.3f}", f"{row['seconds']:.0f}"]
            for row in found.values() if isinstance(row, dict) and "per_group" in row]  # fmt: skip
    full, reference = found["full"], found.get("reference")
    lines = ["### Importance in fewer passes\n",
             f"Spearman's correlation with the full pass ({full['passes']} timesteps, "
             f"{full['seconds']:.0f} s) of the score {found.get('score', 'ours')}.\n",
             *table(["passes", "all channels", "mean of groups", "seconds"], rows)]  # fmt: skip
    if reference:
        lines.append(f"The published rule: {reference['passes']} passes, "
                     f"{reference['seconds']:.0f} s.\n")  # fmt: skip
    return lines


def distillation(found: dict[str, Any]) -> list[str]:
    return [machine(found["environment"], day(found)), *loops(found)]


def recovery(found: dict[str, Any]) -> list[str]:
    rows = [
        [
            one["repair"],
            str(one["steps"]),
            f"{one['optimizer']}, {one['learning_rate']:g}" if one["steps"] else "-",
            "yes" if one["steps"] and one["is_used"] else "no" if one["steps"] else "-",
            f"{one['ssim']:.3f} [{one['ssim_ci95'][0]:.3f}, {one['ssim_ci95'][1]:.3f}]",
            f"{one['held_out_error']:.4f}",
        ]
        for one in found["rows"]
    ]
    head = ["repair", "steps", "optimiser, learning rate", "taken", "SSIM to the dense model",
            "held-out error"]  # fmt: skip
    return [
        machine(found["environment"], day(found)),
        f"The demo with {percent(found['ratio'])} of its MACs cut. Held-out error: mean squared "
        f"noise error on Fashion-MNIST's test images; dense {found['dense_held_out_error']:.4f}. A "
        "training that made the model worse is not taken.\n",
        *table(head, rows),
    ]


def loop_students(found: dict[str, Any]) -> list[str]:
    rows = [
        [
            one["loop"],
            str(one["steps"]),
            ", ".join(f"{name} {value}" for name, value in one["options"].items()),
            f"{one['frechet']['value']:.2f} ± {one['frechet']['se']:.2f}",
            f"{one['ssim_to_teacher']:.3f}",
        ]
        for one in found["rows"]
    ]
    head = ["loop", "steps", "options", "Frechet distance", "SSIM to the trajectories' ends"]
    return [
        machine(found["environment"], day(found)),
        f"The demo with {percent(found['ratio'])} of its MACs cut, trained for a loop in few "
        f"steps, all from one start; {found['images']} images.\n",
        *table(head, rows),
    ]


def quality(found: dict[str, Any]) -> list[str]:
    lines = [machine(found["how"].get("environment"), day(found))]
    markdown = RESULTS / "quality.md"
    if markdown.exists():
        lines.append(markdown.read_text())
    if not found.get("complete"):
        lines.append("Not all rows are there yet.\n")
    if (RESULTS / "quality.png").exists():
        lines.append("![quality against steps](images/results/quality.png)\n")
    return lines


def frontier(found: dict[str, Any]) -> list[str]:
    how = found["how"]
    lines = [machine(how["environment"], day(found)), (RESULTS / "frontier.md").read_text()]
    rounding, load = how["rounding"], how["load_before_timing"][0]
    lines.append(
        f"Sampled in {how['sampled_in']}: SSIM to the same {rounding['n']} images with calls in "
        f"float32 {rounding['ssim']:.3f} ({rounding['loop']}); load {load:.1f} before the timing.\n"
    )
    if (RESULTS / "students.json").exists():
        lines.append(_trained(json.loads((RESULTS / "students.json").read_text())))
    captions = (("frontier.png", "distance against time"), ("frontier-images.png", "images"))
    for name, caption in captions:
        if (RESULTS / name).exists():
            lines.append(f"![{caption}](images/results/{name})\n")
    return lines


def _trained(students: dict[str, Any]) -> str:
    """What the training of each compared model took."""
    notes = dict.fromkeys(note for row in students.values() for note in row.get("notes", ()))
    took = []
    for name, row in students.items():
        seconds = row["processor_seconds"]
        took.append(f"{name} {seconds.get('distill', 0) + seconds.get('distill-loop', 0):,.0f}")
    shared = sum(row["processor_seconds"].get("trajectories", 0) for row in students.values())
    words = f"Processor seconds of training (`bench/frontier/students.py`): {', '.join(took)}; "
    return f"{words}trajectories, shared, {shared:,.0f}. {'; '.join(notes)}.\n"


def distance(found: dict[str, Any]) -> list[str]:
    accuracy = percent(found["how"]["classifier_accuracy"])
    words = f"*{day(found)}; a classifier that is right for {accuracy} of the test images*\n"
    return [words, (RESULTS / "distance.md").read_text()]


def peers(found: dict[str, Any]) -> list[str]:
    lines = []
    for key, section in found["sections"].items():
        lines += [
            f"### {key}\n",
            machine(section["environment"], day(section)),
            f"Weights: {section['weights']}; {section['threads']} threads; "
            f"{percent(section['macs_left']['compressed'])} of the MACs left; load "
            f"{section['load'][0][0]:.1f} before.\n",
        ]
        rows = [candidate(name, row) for name, row in section["candidates"].items()]
        heads = [
            "",
            "precision",
            "ms",
            "over torch eager",
            "parity: relative error",
            "SSIM to fp32",
        ]
        lines += table(heads, rows)
        rows = [
            [name, row["ours"], row["theirs"], ratio(row)]
            for name, row in section["figures"].items()
        ]
        lines += table(["figure", "ours", "theirs", "ratio"], rows)
    return lines  # fmt: skip


def candidate(name: str, row: dict[str, Any]) -> list[str]:
    if "absent" in row:
        return [name, row["precision"], "-", row["absent"], "", ""]
    parity, ssim = row.get("parity"), row.get("ssim_to_fp32")
    error = f"{parity['rel_l2']:.1e}" if parity else ""
    return [
        name, row["precision"], f"{row['ms']:.2f}", ratio(row["over_eager"]),
        error if not parity or parity["passed"] else f"{error}, FAILED",
        f"{ssim['mean']:.3f} ({ssim['n']} images)" if ssim else "",
    ]  # fmt: skip


def gate(found: dict[str, Any]) -> list[str]:
    lines = [
        machine(found["environment"], day(found)),
        f"{found['engine']}; limit {found['limit']}.\n",
    ]
    for trials in found["trials"]:
        rows = []
        for name, row in trials.items():
            if isinstance(row, dict) and "regressed" in row:
                rates = [percent(row[v]) for v in ("pass", "regressed", "inconclusive")]
                rows.append([name, *rates])
        others = f"{trials['other_processes_computing']} ({trials['by']})"
        lines += [f"{trials['trials']} trials, other processes computing: {others}; median time "
                  "to a verdict "
                  f"{trials['seconds_to_verdict']['median']:.1f} s.\n",
                  *table(["", "pass", "regressed", "inconclusive"], rows)]  # fmt: skip
    if found["slowdowns"]:
        rows = [
            [row["case"], f"{row['ratio']:.3f}", row["verdict"], f"{row['seconds']} s"]
            for row in found["slowdowns"]
        ]
        lines += table(["real slowdown, whole check", "ratio", "verdict", "took"], rows)
    return lines  # fmt: skip


def figures(found: dict[str, Any]) -> list[str]:
    """A small result as it is: every number at its top level, or one level down."""
    flat = {}
    for key, value in found.items():
        inner = value.items() if isinstance(value, dict) and key != "environment" else ()
        flat |= {f"{key}: {k}": v for k, v in inner if isinstance(v, int | float)}
        if isinstance(value, int | float):
            flat[key] = value
    rows = [[key, f"{value:.4g}" if isinstance(value, float) else value]
            for key, value in flat.items()]  # fmt: skip
    return [
        machine(found.get("environment"), day(found)),
        *table(["", ""], rows),
    ]


SHOWN = ("quality.png", "frontier.png", "frontier-images.png", "guided.png")
"""The pictures of bench/results that the page shows."""
SECTIONS: list[tuple[str, str, Callable[[dict[str, Any]], list[str]]]] = [
    ("demo.json", "The whole job", demo),
    ("demo-avx2.json", "The whole job on a processor without AVX-512", demo),
    ("help.json", "`diffc --help`", figures),
    ("earlier_start.json", "Short commands, before the redesign and now", earlier_start),
    ("overhead.json", "What building and measuring add", figures),
    ("pruning.json", "Pruning", pruning),
    ("latency_plans.json", "Plans by latency", latency_plans),
    ("latency_plans_untrained.json", "Plans by latency, of further networks", latency_plans),
    ("full_size.json", "Networks at their full size", full_size),
    ("full_size_sdxl.json", "SDXL at its full size", full_size_sdxl),
    ("full_size_int8.json", "int8 at full size", full_size_int8),
    ("fp32_layers.json", "Layers that int8 leaves in fp32: each alone, or groups", fp32_layers),
    ("full_size_blocks.json", "Blocks that learn alone, at full size", full_size_blocks),
    ("full_size_run.json", "A whole run at full size", full_size_run),
    ("full_size_engines.json", "What engines and drawn samples take of memory", full_size_engines),
    ("ort_memory.json", "What calls of ONNX Runtime take of memory", ort_memory),
    ("full_size_lower.json", "What large images take, and lower precisions", full_size_engines),
    ("training_memory.json", "What a training takes of memory", training_memory),
    ("peers.json", "Beside other tools", peers),
    ("quality.json", "Quality at half the MACs", quality),
    ("transformer.json", "A transformer at half the latency: width, depth, both", transformer),
    ("frontier.json", "What a millisecond buys", frontier),
    ("distance.json", "The dense model's own features as a judge", distance),
    ("search.json", "`diffc search` beside brute force", search),
    ("guided.json", "Guidance carried by the student", guided),
    ("guided-product.json", "What demo-text's recipe makes", guided),
    ("loras.json", "A LoRA that a call picks by name", loras),
    ("recovery.json", "After the cut: repair and distillation", recovery),
    ("second_order.json", "A student that matches the derivative too", second_order),
    ("loop_students.json", "Training for a loop", loop_students),
    ("distill_speed.json", "Distillation's speed", distillation),
    ("serving.json", "Serving", serving),
    ("serving_onnxruntime.json", "Serving, engines in Triton's own backend", serving),
    ("gate.json", "The gate", gate),
]


# --- GPUs -----------------------------------------------------------------------------------------


def gpus(copy: bool) -> list[str]:
    """One section per device in bench/results/gpu/DEVICE, as ``bench.gpu`` leaves it."""
    folders = sorted(path.parent for path in (RESULTS / "gpu").glob("*/index.json"))
    if not folders:
        return [
            "## GPUs\n",
            "Nothing was measured on a GPU yet: none could be had. "
            "`python -m bench.gpu --out FOLDER` measures it all where there is one.\n",
            *page_gpu.rehearsed(RESULTS / "gpu-rehearsal.json"),
        ]
    return [line for folder in folders for line in page_gpu.section(folder, shown_by(copy))]


def shown_by(copy: bool) -> Callable[[Path], str]:
    """A device's picture -> its line on the page. copy: put it where the page finds it."""

    def show(picture: Path) -> str:
        device = picture.parents[1].name
        name = f"{device}-{picture.parent.name}-{picture.name}".replace(" ", "-")
        if copy:
            _copy(picture, name)
        return f"![{picture.stem}](images/results/{name})"

    return show


def _copy(picture: Path, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, PICTURES / name)


if __name__ == "__main__":
    main()
