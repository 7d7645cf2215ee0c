"""What the benchmark says: tables, sentences at equal time, a plot, a sheet of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.frontier.rows import DENSE, Images, Model
from diffc_runtime.loop import Loop

Row = dict[str, Any]
SHEET = 12
SPAN = (0.5, 12.0)
"""The costs that the two sides are compared over, in dense calls."""


def best_within(rows: Sequence[Row], cost: float) -> Row | None:
    """The row of the smallest distance among those that cost at most so much."""
    affordable = [row for row in rows if row["cost"] <= cost]
    return min(affordable, key=lambda row: row["frechet"]["value"], default=None)


def is_dense(row: Row) -> bool:
    """True for the dense side: the dense model, and every model whose label begins so."""
    return bool(row["model"].startswith(DENSE))


def at_equal_time(rows: Sequence[Row]) -> list[Row]:
    """For each row of the other side: the best dense row of at most its time.

    ``ahead``: by how many standard errors of the two the dense row's distance is larger.
    """
    dense = [row for row in rows if is_dense(row)]
    compared = []
    for row in rows:
        if is_dense(row):
            continue
        rival = best_within(dense, row["cost"])
        found: Row = {"row": f"{row['model']} {row['loop']}", "cost": row["cost"],
                      "frechet": row["frechet"]["value"], "dense": None}  # fmt: skip
        if rival is not None:
            error = np.hypot(row["frechet"]["se"], rival["frechet"]["se"])
            ahead = (rival["frechet"]["value"] - row["frechet"]["value"]) / error
            found |= {"dense": f"{rival['model']} {rival['loop']}", "dense_cost": rival["cost"],
                      "dense_frechet": rival["frechet"]["value"],
                      "ahead": float(ahead)}  # fmt: skip
        compared.append(found)
    return compared


def behind(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """The costs, from half a dense call to 12, at which the dense side is not further.

    Spans from one cost to another; where neither side has a loop, nobody is behind.
    """
    ours = [row for row in rows if not is_dense(row)]
    dense = [row for row in rows if is_dense(row)]
    low, high = SPAN
    ends = sorted({low, high, *(row["cost"] for row in rows if low < row["cost"] < high)})
    spans: list[tuple[float, float]] = []
    for start, end in pairwise(ends):
        mine, theirs = best_within(ours, start), best_within(dense, start)
        if theirs is None:
            continue
        if mine is None or theirs["frechet"]["value"] <= mine["frechet"]["value"]:
            joins = spans and spans[-1][1] == start
            spans[-1:] = [(spans[-1][0], end)] if joins else [*spans[-1:], (start, end)]
    return spans


def table(results: Row) -> str:
    """Markdown: every row, model by model."""
    how = results["how"]
    lines = [
        f"{how['images']} images a row from the same noise; cost in dense calls (the loop's own "
        f"time over that of dense {how['unit']}); Frechet distance to {how['test_images']} test "
        f"images on a classifier that is right for {100 * how['classifier_accuracy']:.1f} % of "
        f"them; SSIM to dense {how['unit']}; own distances to {how['own_reference']}.",
        "",
        "| model | loop | cost | ms an image | times | Frechet (se) | SSIM | own Frechet (se) "
        "| own kernel (se) |",
        "|" + "---|" * 9,
    ]
    unit = max(row["cost"] for row in results["rows"] if row["model"] == DENSE)
    for row in results["rows"]:
        frechet = f"{row['frechet']['value']:.2f} ({row['frechet']['se']:.2f})"
        cells = [
            row["model"], row["loop"], f"{row['cost']:.2f}", f"{row['image_ms']:.1f}",
            f"{unit / row['cost']:.1f}", frechet, f"{row['ssim']['mean']:.3f}",
            _own(row, "own-frechet"), _own(row, "own-kernel"),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *sentences(results)]
    return "\n".join(lines) + "\n"


def _own(row: Row, name: str) -> str:
    return f"{row[name]['value']:.3f} ({row[name]['se']:.3f})"


def sentences(results: Row) -> list[str]:
    """Who is ahead at equal time, and how well the own distances rank."""
    spans = [f"from {start:.1f} to {end:.1f}" for start, end in results["behind"]]
    lines = [
        "- at equal time, from half a dense call to 12, the compressed side is behind the dense "
        f"one: {', '.join(spans) or 'nowhere'}"
    ]
    ranks = ", ".join(f"{name} {value:.3f}" for name, value in results["ranks"].items())
    lines.append(f"- rank correlation with the classifier's distance over all rows: {ranks}")
    lines += [_eager_words(row) for row in results["rows"] if "distilled" in row["model"]]
    lines += [_faster_words(row, results["how"]["unit"]) for row in results["faster"]]
    return lines


def _eager_words(row: Row) -> str:
    return f"- {row['model']} {row['loop']}: {_over_eager(row)}"


def _over_eager(row: Row) -> str:
    """'160x as fast an image as torch eager, 95 % [150, 170]'."""
    low, high = row["eager_times_ci95"]
    times = f"{row['eager_times']:.3g}x as fast an image as torch eager with the reference loop"
    return f"{times}, 95 % [{low:.3g}, {high:.3g}]"


def _faster_words(row: Row, unit: str) -> str:
    """Of the same loop on another engine."""
    if row["parity_failed"]:
        return f"- {row['row']}: not timed, it fails parity: {row['parity_failed']}"
    times = (Loop.parse(unit).steps or 1) / row["cost"]
    return (
        f"- {row['row']} (relative error to torch {row['parity']:.2g}, at most "
        f"{row['parity_limit']:g}): {row['image_ms']:.1f} ms, cost {row['cost']:.3f}, {times:.1f} "
        f"times faster than dense {unit}; {_over_eager(row)}"
    )


def plot(results: Row, path: Path) -> None:
    """Frechet distance against cost."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4.6))
    series: dict[tuple[str, str], list[Row]] = {}
    for row in results["rows"]:
        series.setdefault((row["model"], row["loop"].partition(":")[0]), []).append(row)
    colours = {label: f"C{i}" for i, label in enumerate(dict.fromkeys(m for m, _ in series))}
    for (label, sampler), rows in series.items():
        rows = sorted(rows, key=lambda row: row["cost"])
        axis.errorbar(
            [row["cost"] for row in rows], [row["frechet"]["value"] for row in rows],
            yerr=[row["frechet"]["se"] for row in rows], marker="o", markersize=3, capsize=2,
            linestyle="--" if sampler == "ddim" else "-", color=colours[label],
            label=f"{label}, {sampler}",
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("time of an image, in calls of the dense model")
    axis.set_ylabel("Frechet distance to test images (classifier)")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def sheet(models: Sequence[Model], images: Images, path: Path) -> None:
    """The first images of every row, a line each, in the order of the table."""
    from PIL import Image

    lines = []
    for model in models:
        for loop in model.loops:
            some = images.read(model, loop)[:SHEET]
            pixels = ((some + 1) * 127.5).round().clamp(0, 255).byte().numpy()
            lines.append(np.concatenate(list(pixels.transpose(0, 2, 3, 1)), 1))
    whole = np.concatenate(lines, 0)
    Image.fromarray(whole[..., 0] if whole.shape[2] == 1 else whole).save(path, optimize=True)
