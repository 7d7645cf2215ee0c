"""What networks take of memory on docs/results.md: at full size, in training, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from page_parts import day, machine, percent, ratio, table


def full_size(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, steps in found["networks"].items():
        spent = [
            f"{steps[step]['seconds']:.0f} s, {steps[step]['own_peak_bytes'] / 1e9:.2f} GB"
            for step in ("export", "convert")
        ]
        files = [f"{steps[step]['bytes'] / 1e9:.2f} GB" for step in ("export", "convert")]
        errors = [f"{error:.1e}" for error in steps.get("run", {}).get("error", {}).values()]
        count = f"{steps['export']['parameters'] / 1e6:.0f} M"
        rows.append([name, count, *files, *spent, *(errors or ["-", "-"])])
    heads = ["", "parameters", "fp32 file", "fp16 file", "export", "to fp16", "fp32 error",
             "fp16 error"]  # fmt: skip
    return [
        machine(found["environment"], day(found)),
        f"The published configurations with {found['weights']} weights; seconds and peak memory of "
        "the step's whole process, beyond the pages of mapped files; errors are relative, of ONNX "
        "Runtime to torch fp32." + (f" {found['note']}" if "note" in found else "") + "\n",
        *table(heads, rows),
    ]


def full_size_sdxl(found: dict[str, Any]) -> list[str]:
    lines = full_size(found)
    for name, steps in found["networks"].items():
        row = steps["engine"]
        lines.append(
            f"{name}, cut: an engine of OpenVINO in fp32 of {row['engine_bytes'] / 1e9:.2f} GB, "
            f"exported, built, opened and called in {row['seconds']:.0f} s and "
            f"{row['own_peak_bytes'] / 1e9:.2f} GB of its own memory; its relative error to torch "
            f"is {row['error']:.1e}.\n"
        )
    return [*lines, *stage_peaks(found, "blocks", "The stages in which each block learns alone.")]


def full_size_int8(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, steps in found["networks"].items():
        row = steps["int8"]
        rows.append([
            name, f"{steps['export']['parameters'] / 1e6:.0f} M",
            f"{steps['export']['bytes'] / 1e9:.2f} GB", f"{row['bytes'] / 1e9:.2f} GB",
            f"{row['seconds']:.0f} s", f"{row['own_peak_bytes'] / 1e9:.2f} GB",
            f"{row['limit_bytes'] / 1e9:.2f} GB", f"{row['kept_fp32']} of {row['layers']}",
            f"{row['error']:.1e}",
        ])  # fmt: skip
    heads = ["", "parameters", "fp32 file", "int8 file", "to int8", "peak", "limit",
             "layers in fp32", "error"]  # fmt: skip
    return [
        machine(found["environment"], day(found)),
        f"SD 1.5's U-Net with {found['weights']} weights at 8 x 8 latents, calibrated on one "
        "trajectory; the peak is of the step's own memory, beyond the pages of mapped files, the "
        "error relative to the fp32 file."
        + (f" {found['note']}" if "note" in found else "")
        + "\n",
        *table(heads, rows),
    ]


def fp32_layers(found: dict[str, Any]) -> list[str]:
    rows = [
        [row["network"], f"{row['share']:.1f}", row["by"], f"{row['kept']} of {row['layers']}",
         percent(row["kept_work"]), f"{row['error'] / row['whole'] / row['share']:.2f}",
         str(row["calls"])]
        for row in found["rows"]
    ]  # fmt: skip
    heads = ["", "tolerance", "measured", "layers in fp32", "of the MACs", "error / tolerance",
             "calls"]  # fmt: skip
    return [
        machine(found["environment"], day(found)),
        "Small networks with random weights; the tolerance is a share of the error with every "
        "layer in int8. A call is one row through one mixture."
        + (f" {found['note']}" if "note" in found else "")
        + "\n",
        *table(heads, rows),
    ]


def full_size_blocks(found: dict[str, Any]) -> list[str]:
    words = (
        f"Networks with {found['weights']} weights: each block learns alone, and nothing trains "
        "the whole."
    )
    return stage_peaks(found, "blocks", words)


def full_size_engines(found: dict[str, Any]) -> list[str]:
    about = {
        "sd15-two-levels": "SD 1.5 without its two lower levels, whose compressed ONNX file is "
        "below 256 MB and read whole",
        "sd15-two-levels-64": "SD 1.5 without its two lower levels at the size of its own "
        "latents, where the scores of attention are most of a call of ONNX Runtime; no ladder",
        "dit-six-blocks": "DiT-XL/2 with 6 of its 28 blocks",
        "sd15-parts": "the text encoder and the VAE of SD 1.5 around a small U-Net",
    }
    words = (
        f"{'; '.join(about[name] for name in found['networks'])}; with {found['weights']} weights. "
        "A run from samples that the dense model draws to the ladder of each target, in one "
        "process, which gives large blocks back at once."
    )
    lower = {name: steps for name, steps in found["networks"].items() if "lower" in steps}
    if not lower:
        return stage_peaks(found, "engines", words)
    in_lower = (
        "The same in int8 for `openvino` and in fp16 for `trt-rtx`, whose engines do not run here. "
        "Which layers stay in fp32 decides what an int8 file has, and nobody knows it before: the "
        "estimates are for the bytes that the files turned out to have.\n"
    )
    own = ("precision", "build", "bench", "frontier", "explain")
    in_auto = "The choice of `--precision auto` among the engines of `openvino`.\n"
    return [
        *stage_peaks(found, "engines", words),
        in_lower,
        *peak_tables(lower, "lower", own),
        in_auto,
        *peak_tables(lower, "auto", ("choose",)),
    ]


def ort_memory(found: dict[str, Any]) -> list[str]:
    ways = {
        "itself": "ONNX Runtime by itself", "no patterns": "without memory patterns",
        "diffc": "diffc's engines",
    }  # fmt: skip
    rows = [
        [name, ways[way], f"{memory['peak'] / 1e6:.0f} MB", f"{memory['after'] / 1e6:.0f} MB",
         f"{row['milliseconds'][way]:.0f} ms", ratio(row["over_itself"].get(way))]
        for name, row in found["networks"].items()
        for way, memory in row["memory"].items()
    ]  # fmt: skip
    heads = ["", "", "at most", "after", "a call", "its time over ONNX Runtime's by itself"]
    return [
        machine(found["environment"], day(found)),
        f"What {found['calls']} calls of one row add to a process's own memory, at most and once "
        f"they have ended, with {found['threads']} threads and {found['weights']} weights."
        + (f" {found['note']}" if "note" in found else "")
        + "\n",
        *table(heads, rows),
    ]


def full_size_run(found: dict[str, Any]) -> list[str]:
    words = (
        f"SD 1.5 at its published size, with {found['weights']} weights, samples of a small side "
        "and few steps: from the ranking to the ladder of both engines on a CPU, in one process."
    )
    return stage_peaks(found, "whole", words)


def stage_peaks(found: dict[str, Any], step: str, words: str) -> list[str]:
    """What each stage of a step took beside its estimate, a table for each network.

    Args:
        found: The result.
        step: Of the benchmark.
        words: What it was.
    """
    return [
        machine(found["environment"], day(found)),
        words + " The peak is of the process's own memory, beyond the pages of mapped files; the "
        "estimate is that of `diffc plan`, once the plan is known."
        + (f" {found['note']}" if "note" in found else "")
        + "\n",
        *peak_tables(found["networks"], step),
    ]


def peak_tables(networks: dict[str, Any], step: str, kinds: Sequence[str] = ()) -> list[str]:
    """The tables alone.

    Args:
        networks: Name -> its steps.
        step: Of the benchmark.
        kinds: The first words of the stages' names; all where there are none.
    """
    lines = []
    for name, steps in networks.items():
        rows = []
        for stage, row in steps[step]["stages"].items():
            if kinds and stage.split("-")[0] not in kinds:
                continue
            peak, estimate = row["own_peak_bytes"], row.get("estimated_bytes")
            beside = ["-", "-"]
            if estimate is not None:
                beside = [f"{estimate / 1e9:.2f} GB", f"{estimate / peak - 1:+.1%}"]
            rows.append([stage, f"{row['seconds']:.0f} s", f"{peak / 1e9:.2f} GB", *beside])
        counts = [f"{count / 1e6:.0f} M" for count in steps[step]["parameters"].values()]
        lines.append(f"{name}: {counts[0]} parameters, {counts[1]} after the cut.\n")
        lines += table(["stage", "time", "peak", "estimate", "off by"], rows)
    return lines


def training_memory(found: dict[str, Any]) -> list[str]:
    def cells(row: dict[str, Any]) -> tuple[str, str, str]:
        peak, estimate = row["own_peak_bytes"], row["estimated_bytes"]
        return f"{peak / 1e9:.2f} GB", f"{estimate / 1e9:.2f} GB", f"{estimate / peak - 1:+.1%}"

    rows = [
        [row["network"], str(row["pieces"]), "yes" if row["checkpointing"] else "no",
         str(row["rank"] or "-"), *cells(row)]
        for row in found["rows"]
    ]  # fmt: skip
    heads = ["peak", "estimate", "off by"]
    ranked = [[row["network"], row["by_block"], *cells(row)] for row in found["importance"]]
    forward = [[row["network"], row["stage"], *cells(row)] for row in found["forward"]]
    return [
        machine(found["environment"], day(found)),
        "Toy networks whose activations are many times their parameters, distilled in batches of 8 "
        "in fp32 on the CPU; the peak is that of the whole process's own memory. With a rank, "
        "low-rank additions are trained in the place of the weights.\n",
        *table(["", "pieces", "checkpointing", "rank", *heads], rows),
        "The importance by gradients, of the whole network and block by block.\n",
        *table(["", "block by block", *heads], ranked),
        "Stages without gradients, of a run that cuts half of the MACs.\n",
        *table(["", "stage", *heads], forward),
    ]
