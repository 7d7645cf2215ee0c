"""A check's figures as lines of a history (diffc.gate.baseline)."""

from __future__ import annotations

from typing import Any

from diffc.gate.result import CheckResult, Figure


def rows_of(result: CheckResult) -> list[dict[str, Any]]:
    """One line for each engine and batch size whose latency was measured."""
    ssim = _value(result, "SSIM", "samples", None)
    return [
        {
            "created": result.created,
            "fingerprint": result.environment["fingerprint"],
            "model": result.candidate.model,
            "target": figure.target,
            "precision": figure.precision,
            "batch": figure.batch,
            "p50_ms": figure.candidate,
            "n": figure.pairs,
            "peak_bytes": _memory(result, figure),
            "engine_bytes": _value(result, "engine size", figure.target, figure.precision),
            "ssim": ssim,
            "verdict": figure.verdict,
            "source": result.candidate.path,
        }
        for figure in result.figures
        if figure.name == "latency p50"
    ]


def _memory(result: CheckResult, figure: Figure) -> float | None:
    mine = (figure.target, figure.precision, figure.batch)
    found = (
        f for f in result.figures
        if "memory" in f.name and (f.target, f.precision, f.batch) == mine
    )  # fmt: skip
    return next((f.candidate for f in found), None)


def _value(result: CheckResult, name: str, target: str, precision: str | None) -> float | None:
    for figure in result.figures:
        if (
            figure.name == name
            and figure.target == target
            and precision in (None, figure.precision)
        ):
            return figure.candidate
    return None
