"""The section of docs/results.md about servers."""

from __future__ import annotations

from typing import Any

from page_parts import day, table


def serving(found: dict[str, Any]) -> list[str]:
    environment = found["environment"]
    lines = [
        f"*{environment['cpu']}, {environment['threads']} thread(s), onnxruntime "
        f"{environment['onnxruntime']}, load {environment['load_average']:.1f}; {day(found)}*\n"
    ]
    per_step = ", ".join(f"{n} {ms:.3f} ms" for n, ms in found["runtime_ms_per_step"].items())
    lines += [
        f"The runtime's own cost per step: {per_step}. Import: "
        f"{found['import_seconds']:.2f} s. In process, the pipeline's time per image over "
        f"the engine's own time x steps: {ratio_words(found['pipeline_over_engine'])}.\n"
    ]
    rows = []
    prompted = found.get("prompted") or {}
    for name, result in (("served", found.get("served") or {}), ("prompted", prompted)):
        lines += over_engine(name, result)
    both = [*(found.get("served") or {}).items()]
    both += [(f"{model}, with a prompt", row) for model, row in prompted.items()]
    for model, row in both:
        for level in row.get("levels", []) if isinstance(row, dict) else []:
            rows.append(
                [
                    model,
                    level["concurrency"],
                    f"{level['latency_ms']['p50']:.0f}",
                    f"{level['throughput_per_s']:.2f}",
                    level["errors"],
                ]
            )
    heads = ["through Triton", "concurrency", "p50, ms", "images per second", "errors"]
    return [*lines, *(table(heads, rows) if rows else [])]  # fmt: skip


def over_engine(name: str, result: dict[str, Any]) -> list[str]:
    """What a server adds for one client, and what a step of pipeline_bls is made of."""
    ratios = {
        model: row["latency_over_engine_at_1"]
        for model, row in result.items()
        if isinstance(row, dict) and "latency_over_engine_at_1" in row
    }
    if not ratios:
        return []
    each = ", ".join(f"`{model}` {ratio_words(value)}" for model, value in ratios.items())
    what = "denoiser's time x steps" + (" and one decoder call" if name == "prompted" else "")
    line = f"One client{', with a prompt' if name == 'prompted' else ''}, over the {what}: {each}."
    if step := (result.get("pipeline_bls") or {}).get("step_ms") or result.get("step_ms"):
        line += f" {step_words(step, result.get('denoiser') == 'onnxruntime backend')}"
    return [f"{line}\n"]


def ratio_words(ratio: dict[str, Any] | float) -> str:
    """A ratio with its interval; the results of before 2026-11-30 have none."""
    if isinstance(ratio, dict):
        low, high = ratio["ci95"]
        return f"{ratio['median']:.3f} [{low:.3f}, {high:.3f}]"
    return f"{ratio:.3f}"


def step_words(step: dict[str, float], native: bool) -> str:
    """What a step of pipeline_bls is made of; native: the engine is in its own backend."""
    way = "the backend's call of it" if native else "the way to the engine's process and back"
    decoder = step.get("decoder")
    decoded = f"the decoder {decoder:.2f}, " if decoder else ""
    return (
        f"A step of `pipeline_bls` takes {step['step']:.2f} ms: the engine {step['engine']:.2f}, "
        f"{way} {step['to_the_engine']:.2f}, the server's queue and tensors "
        f"{step['server']:.2f}, {decoded}the loop and its call {step['loop']:.2f}."
    )
