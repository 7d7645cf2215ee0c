"""The section of docs/results.md on a transformer's width and depth (bench/transformer.py)."""

from __future__ import annotations

from typing import Any

from page_parts import day, machine, percent, table


def transformer(found: dict[str, Any]) -> list[str]:
    """Every row at its latency, and how much further than width and depth together it is."""
    how, rows = found["how"], []
    for name, one in found["rows"].items():
        left, distance, further = one["latency_left"], one["frechet"], found["further"].get(name)
        low, high = left["ci95"]
        rows.append([
            name, f"{left['median']:.3f} [{low:.3f}, {high:.3f}]", f"{one['latency_ms']:.2f}",
            f"{one['macs'] / 1e6:.1f} M", f"{one['parameters'] / 1e6:.2f} M",
            f"{distance['value']:.2f} ± {distance['se']:.2f}",
            "" if further is None else f"{further['value']:+.2f} ± {further['se']:.2f}",
            f"{one['ssim']['mean']:.3f}", f"{one['held_out']:.4f}", str(one["training"]["steps"]),
        ])  # fmt: skip
    heads = ["", "time of the dense", "ms", "MACs", "parameters", "Frechet",
             "further than both cuts", "SSIM", "held out", "steps"]  # fmt: skip
    ended = "" if found["complete"] else " The run has not ended: rows are missing."
    return [
        machine(found["environment"], day(found)),
        f"A class-conditional DiT that was trained for {how['dense_seconds']:.0f} s of processor "
        f"time on one thread, on Fashion-MNIST. Each row has {percent(how['ratio'])} of the dense "
        f"engine's time to lose ({how['target']}, batch 1, {how['threads']} thread), and "
        f"{how['seconds']:.0f} s of processor time for the product's default distillation; "
        "torch-pruning is its own Taylor pruner, at the channel ratio nearest to that time. "
        f"{how['images']} images a row by {how['loop']} from the same noise and labels; Frechet "
        f"distance to {how['test_images']} test images on a classifier that is right for "
        f"{percent(how['classifier_accuracy'])} of them; held out is the error of the predicted "
        f"noise on test images.{ended}\n",
        *table(heads, rows),
    ]
