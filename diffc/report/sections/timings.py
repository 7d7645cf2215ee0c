"""Rows of times, their chart and notes, for the sections of one call and of whole images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffc.measure.results import Latency, TargetResult
from diffc.report import speed, svg
from diffc.report.blocks import Chart, Details, Notes, Table
from diffc.report.units import change, milliseconds
from diffc_runtime.json_types import JsonObject

Row = tuple[str, str, str, str]
_LABEL = "distributions of latency: dense above, compressed below; their figures are in the table"


def time_rows(result: TargetResult, what: str) -> list[Row]:
    """Median and tail of ``what``, and the speed-up with its interval below it.

    The interval is of this run: it holds no drift between one run and the next.
    """
    dense, small = result.dense.latency_ms, result.compressed.latency_ms
    if dense is None or small is None or result.speedup is None:
        return []
    faster, within = speed.cells(result.speedup)
    return [
        (f"{what}, p50", milliseconds(dense.p50), milliseconds(small.p50), faster),
        ("  within this run", "", "", within),
        (_tail(what, dense, small), milliseconds(dense.p99), milliseconds(small.p99), ""),
    ]


def _tail(what: str, *sides: Latency) -> str:
    """The label of the p99s: below 100 times, the percentile 99 is their largest, and says so."""
    fewest = min(side.n for side in sides)
    return f"{what}, p99" if fewest >= 100 else f"  slowest of {fewest}"


def distribution(result: TargetResult) -> Iterator[Chart | Details]:
    """Every percentile, behind a chart of the single times where the report has those."""
    dense, small = result.dense, result.compressed
    rows = _percentile_rows(result)
    if not rows:
        return
    if dense.samples_ms and small.samples_ms:
        sides = [("dense", dense.samples_ms), ("compressed", small.samples_ms)]
        yield Chart(svg.histogram(sides, "milliseconds", _LABEL), Table(rows))
    else:
        yield Details("Every percentile", [Table(rows)])


def _percentile_rows(result: TargetResult) -> list[Row]:
    dense, small = result.dense.latency_ms, result.compressed.latency_ms
    if dense is None or small is None:
        return []
    rows: list[Row] = []
    for name in ("p50", "p90", "p95", "p99", "mean"):
        before, after = getattr(dense, name), getattr(small, name)
        rows.append((name, milliseconds(before), milliseconds(after), change(before, after)))
    first = [milliseconds(side.first_call_ms) for side in (result.dense, result.compressed)]
    return [
        *rows,
        ("times taken", str(dense.n), str(small.n), ""),
        ("first", first[0], first[1], ""),
    ]


def how_measured(result: TargetResult) -> Details:
    """The pairs, the clock, CUDA graphs, threads, cores, and the rule of the percentiles."""
    words = " ".join(_how_sentences(result))
    return Details("How it was measured", [Notes([words] if words else [])])


def _how_sentences(result: TargetResult) -> Sequence[str]:
    details = result.details
    sentences = []
    if details.get("timed_by"):
        sentences.append(f"Timed by {details['timed_by']}.")
    if details.get("captured"):
        sentences.append("The calls are CUDA graphs.")
    elif details.get("not_captured"):
        sentences.append(f"No CUDA graph was captured: {details['not_captured']}.")
    if result.speedup is not None:
        pairs, within = result.speedup.pairs, speed.factor_interval(result.speedup)
        sentences.append(
            f"The speed-up, 95 % {within} within this run, is from {pairs} pairs timed in turn."
        )
    if details.get("threads"):
        sentences.append(_threads(details))
    if details.get("percentile_rule"):
        sentences.append(f"Percentiles: {details['percentile_rule']}.")
    return sentences


def _threads(details: JsonObject) -> str:
    cores = ", ".join(map(str, details.get("pinned_to_cores") or ()))
    return f"Threads: {details['threads']}" + (f" on cores {cores}." if cores else ".")


def parity_note(result: TargetResult) -> Iterator[str]:
    """The verdict of parity, and the distance to torch's output."""
    parity = result.parity
    if parity is None:
        return
    words = (
        f"parity against torch fp32: {'passed' if parity.passed else f'FAILED ({parity.reason})'}"
    )
    if parity.rel_l2 is not None:
        words += f", relative error {parity.rel_l2:.1e}"
    if parity.trajectory_ssim is not None and result.precision != "fp32":
        words += f", SSIM {parity.trajectory_ssim:.4f} after a short trajectory"
    yield words
