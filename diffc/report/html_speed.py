"""The sections of report.html that are about time: facts, where the speed-up comes from, latency.

Figures of one call of the network and of one image stand apart, each named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffc.measure.explain import Ladder
from diffc.measure.results import Speedup, TargetResult, at_working
from diffc.report import speed, svg
from diffc.report.html_parts import table
from diffc.report.lines import factor, noise_words
from diffc.report.markup import Child, Html, joined, tag
from diffc.report.model import Report
from diffc.report.units import change, interval, milliseconds, number, rate


def facts(report: Report) -> Html | None:
    """The headline's figures, large."""
    small = report.compressed
    if small is None:
        return None
    found = [
        _speed_fact(f"one call on {r.target}, {r.shape_words}", r.speedup)
        for r in at_working(report.targets) if r.speedup is not None
    ]  # fmt: skip
    found += [
        _speed_fact(f"{speed.images(r)} on {r.target}", r.speedup)
        for r in report.pipeline if r.speedup is not None
    ]  # fmt: skip
    found.append(("MACs", change(report.model.macs, small.macs), ""))
    found.append(("parameters", change(report.model.params, small.params), ""))
    ssim = (report.quality or {}).get("ssim") or {}
    if isinstance(ssim.get("mean"), int | float):
        found.append(("SSIM to dense", number(ssim["mean"], 3), f"{ssim.get('n', '?')} images"))
    boxes = (tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else None))
             for name, value, note in found)  # fmt: skip
    return tag("dl", *boxes, class_="facts")


def _speed_fact(what: str, speedup: Speedup) -> tuple[str, str, str]:
    """(what, the figure, its interval); where no speed-up is shown, that in the figure's place."""
    if speedup.shown:
        return f"as fast, {what}", f"{speedup.median:.2f}x", f"95 % {interval(speedup.ci95)}"
    return f"{speed.NOT_SHOWN}, {what}", "-", speed.with_interval(speedup)


def causes(report: Report) -> Html | None:
    """Where the speed-up comes from: the ladder of each target, then all factors together."""
    ladders = [found for one in report.ladders if (found := _ladder(one)) is not None]
    together = factors(report)
    if not ladders or together is None:
        return joined(*ladders) if ladders else together
    return joined(*ladders, tag("h3", "What was cut, and what came of it"), together)


def _ladder(ladder: Ladder) -> Html | None:
    """Picture and table of one ladder."""
    timed = [(rung, rung.latency_ms) for rung in ladder.rungs if rung.latency_ms is not None]
    if not timed:
        return None
    bars = [
        (speed.label(ladder, rung), latency.p50,
         f"{milliseconds(latency.p50)}  {factor(rung)}".strip())
        for rung, latency in timed
    ]  # fmt: skip
    chart = svg.steps(
        bars, "milliseconds, p50", "the time of one call, change by change; each bar lies in the "
        "outline of the one before; the numbers are in the table",
    )  # fmt: skip
    rows = [
        (speed.label(ladder, rung), rung.cause or "-", milliseconds(latency.p50),
         _times(rung.over_previous),
         _times(rung.over_first))
        for rung, latency in timed
    ]  # fmt: skip
    heads = ["", "changed", "p50", "by", "in all"]
    figures = table(heads, rows, left=2)
    said = ["All timed in turn in one process; factors are medians of paired ratios, with 95 % "
            "intervals."]  # fmt: skip
    if (marked := speed.busy_note(ladder)) is not None:
        said.append(marked + ".")
    if ladder.noise is not None:
        said.append(noise_words(ladder.noise).capitalize() + ".")
    said += [f"{rung.label}: not measured: {rung.absent}." for rung in ladder.rungs if rung.absent]
    notes = (tag("p", words, class_="soft") for words in said)
    title = f"{ladder.target}, {ladder.precision}, batch {ladder.batch}"
    return joined(tag("h3", title), chart, figures, *notes)


def _times(found: Speedup | None) -> str:
    return "-" if found is None else f"{found.median:.2f}x {interval(found.ci95)}"


def factors(report: Report) -> Html | None:
    """By what factor everything fell: what was cut, and what came of it."""
    small = report.compressed
    if small is None:
        return None
    rows: list[tuple[str, float]] = [
        ("parameters", report.model.params / small.params),
        ("MACs", report.model.macs / small.macs),
    ]
    calls = at_working(report.targets)
    for kind, results in (("one call", calls), ("one image", report.pipeline)):
        rows += [
            (f"time of {kind}: {r.target} {r.precision}, {r.shape_words}{_doubt(r.speedup)}",
             r.speedup.median)
            for r in results if r.speedup is not None
        ]  # fmt: skip
    most = max([1.0, *(value for _, value in rows)])
    shown = [(name, f"{value:.2f}x", svg.bar(value / most, second=True)) for name, value in rows]
    notes = [
        f"{r.target}, {r.shape_words}: the speed-up is {r.efficiency:.2f} of the fall in MACs"
        f"{_doubt(r.speedup)}."
        for r in report.targets if r.efficiency is not None
    ]  # fmt: skip
    said = (tag("p", note, class_="soft") for note in notes)
    return joined(table(["", "dense / compressed", ""], shown), *said)


def _doubt(speedup: Speedup | None) -> str:
    return "" if speedup is None or speedup.shown else f" ({speed.NOT_SHOWN})"


def latency(result: TargetResult) -> Html | None:
    """Calls of the network: both distributions, their percentiles, calls a second."""
    each = [rate(speed.calls_per_s(s, result.batch)) for s in (result.dense, result.compressed)]
    return _times_of(result, ("calls per second", each[0], each[1], ""))


def images(result: TargetResult) -> Html | None:
    """Whole images: the same, images a second, and what their time leaves out."""
    each = [rate(speed.images_per_s(side)) for side in (result.dense, result.compressed)]
    said = [] if result.absent else speed.loop_notes(result)
    notes = (tag("p", words[:1].upper() + words[1:] + ".", class_="soft") for words in said)
    return joined(_times_of(result, ("images per second", each[0], each[1], "")), *notes)


def _times_of(result: TargetResult, a_second: Sequence[Child]) -> Html:
    dense, small = result.dense, result.compressed
    if dense.latency_ms is None or small.latency_ms is None:
        return tag("p", f"not measured: {result.absent or dense.absent or ''}")
    rows: list[Sequence[Child]] = []
    for name in ("p50", "p90", "p95", "p99", "mean", "n"):
        before, after = getattr(dense.latency_ms, name), getattr(small.latency_ms, name)
        if name == "n":
            rows.append(("times taken", str(before), str(after), ""))
        else:
            rows.append((name, milliseconds(before), milliseconds(after), change(before, after)))
    rows.append(("first call", milliseconds(dense.first_call_ms),
                 milliseconds(small.first_call_ms), ""))  # fmt: skip
    rows.append(a_second)
    figures = table(["", "dense", "compressed", "change"], rows)
    notes = tag("p", *_latency_notes(result), class_="soft")
    if not (dense.samples_ms and small.samples_ms):
        return joined(figures, notes)
    chart = svg.histogram(
        [("dense", dense.samples_ms), ("compressed", small.samples_ms)], "milliseconds",
        "distributions of latency: dense above, compressed below; their figures are in the table",
    )  # fmt: skip
    return joined(tag("div", chart, tag("div", figures), class_="two"), notes)


def _latency_notes(result: TargetResult) -> list[str]:
    found = []
    if result.speedup is not None:
        told = speed.words(result.speedup)
        within = f", 95 % {interval(result.speedup.ci95)}" if result.speedup.shown else ""
        found.append(f"{told}{within}, from {result.speedup.pairs} pairs measured in turn. ")
    if result.parity is not None:
        verdict = "passed" if result.parity.passed else f"FAILED ({result.parity.reason})"
        found.append(f"Parity against torch fp32: {verdict}. ")
    if result.noise is not None:
        found.append(f"{noise_words(result.noise).capitalize()}. ")
    return [*found, *_how(result.details)]


def _how(details: Mapping[str, Any]) -> list[str]:
    """The clock, CUDA graphs, threads, cores, and the rule of the percentiles."""
    found = []
    if details.get("timed_by"):
        found.append(f"Timed by {details['timed_by']}. ")
    if details.get("captured"):
        found.append("The calls are CUDA graphs. ")
    elif details.get("not_captured"):
        found.append(f"No CUDA graph was captured: {details['not_captured']}. ")
    if details.get("threads"):
        found.append(f"Threads: {details['threads']}")
        cores = details.get("pinned_to_cores")
        found.append(f" on cores {', '.join(map(str, cores))}. " if cores else ". ")
    if details.get("percentile_rule"):
        found.append(f"Percentiles: {details['percentile_rule']}.")
    return found
