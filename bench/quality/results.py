"""What the study says: its claims, the table, the curves."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

from bench.quality.rows import HALF, OURS, REFERENCE
from bench.quality.study import Study
from diffc_runtime.files import write_text

ACCURACY = "classifier_accuracy"
"""Of the study's classifier; each row has that of the one that judged it."""


def claims(rows: dict) -> dict:
    """What the study is about, from the rows that are there."""
    found: dict = {}
    others = [name for name in rows if name != "dense" and not name.startswith(OURS + ",")]
    others = [name for name in others if name != OURS]
    if OURS in rows and others:
        ours, plain = rows[OURS], [rows[name] for name in others]
        found["best_ssim"] = ours["ssim"]["mean"] > max(r["ssim"]["mean"] for r in plain)
        found["best_frechet"] = ours["frechet"]["value"] < min(r["frechet"]["value"] for r in plain)
        found["against"] = others
    if HALF in rows and REFERENCE in rows:
        half, reference = rows[HALF], rows[REFERENCE]
        found["half_the_steps_reach_the_reference"] = {
            "ssim": half["ssim"]["mean"] >= reference["ssim"]["mean"],
            "frechet": half["frechet"]["value"] <= reference["frechet"]["value"],
        }
    if OURS in rows and REFERENCE in rows:
        found["steps_to_the_reference's_final_ssim"] = steps_to(
            rows[OURS]["curve"], rows[REFERENCE]["curve"]
        )
    return found


def steps_to(ours: dict, reference: dict) -> int | None:
    """The first point of our curve at which SSIM is the reference's last or better."""
    goal = reference[max(reference, key=int)]["ssim"]["mean"]
    reached = [int(step) for step, found in ours.items() if found["ssim"]["mean"] >= goal]
    return min(reached, default=None)


def table(results: dict) -> str:
    """Markdown."""
    said, sampling = results["how"], results["how"]["sampling"]
    lines = [
        f"{said['samples']} samples, {sampling['sampler']} of {sampling['steps']} steps, seed "
        f"{sampling['seed']}; {said['steps']} training steps of {said['batch']}; classifier: "
        f"{100 * said[ACCURACY]:.1f} % of the test images right.",
        "",
        "| row | steps | parameters | MACs | latency ms | Frechet (se) | SSIM to dense (95 %) |",
        "|" + "---|" * 7,
    ]
    for name, row in results["rows"].items():
        ssim = row.get("ssim")
        shown = f"{ssim['mean']:.3f} [{ssim['ci95'][0]:.3f}, {ssim['ci95'][1]:.3f}]" if ssim else ""
        latency = f"{row['latency_ms']:.2f}" if "latency_ms" in row else "not measured"
        distance = f"{row['frechet']['value']:.3f} ({row['frechet']['se']:.3f})"
        lines.append(
            f"| {name} | {row.get('steps', '')} | {row['parameters'] / 1e6:.2f} M "
            f"| {row['macs'] / 1e6:.0f} M | {latency} | {distance} | {shown} |"
        )
    others: dict[float, list[str]] = {}
    for name, row in results["rows"].items():
        if row.get(ACCURACY, said[ACCURACY]) != said[ACCURACY]:
            others.setdefault(row[ACCURACY], []).append(name)
    for right, names in others.items():
        words = f"Of an earlier run, whose classifier had {100 * right:.1f} % right"
        note = "Frechet distances of two classifiers do not compare."
        lines += ["", f"{words}: {'; '.join(names)}. {note}"]
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """Curves of both figures against steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for name, row in results["rows"].items():
        curve = sorted((int(step), found) for step, found in row.get("curve", {}).items())
        if not curve:
            continue
        steps, style = [step for step, _ in curve], {"marker": "o", "markersize": 3, "label": name}
        style["linewidth"] = 2.5 if name.startswith("ours") else 1.2
        axes[0].plot(steps, [found["ssim"]["mean"] for _, found in curve], **style)
        axes[1].plot(steps, [found["frechet"]["value"] for _, found in curve], **style)
    axes[1].set_yscale("log")
    titles = ("SSIM to the dense model", "Frechet distance, classifier features")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_xlabel("training steps")
        axis.set_title(f"{title}, {results['how']['curve_samples']} samples", fontsize=9)
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(study: Study, results: dict) -> None:
    out = study.args.out
    results["claims"] = claims(results["rows"])
    results["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_text(out.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
    write_text(out.with_suffix(".md"), table(results))
    plot(results, out.with_suffix(".png"))
