"""The report as sections of rows, from which every rendering is made.

A row is (what, dense, compressed, change), or what the section's heads say; a section has a title
and notes below it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffc.measure.explain import Ladder, Rung
from diffc.measure.results import Noise, PrecisionChoice, PrecisionTry, TargetResult
from diffc.report import served, speed
from diffc.report.model import Report
from diffc.report.units import change, count, interval, milliseconds, number, rate, size

Row = tuple[str, str, str, str]

MEMORY = (
    ("engine_bytes", "engine file"),
    ("weights_bytes", "weights, in memory"),
    ("activations_bytes", "activations, at their peak"),
    ("peak_bytes", "peak of the whole process"),
    ("device_weights_bytes", "GPU memory from loading"),
    ("device_activations_bytes", "GPU memory from running"),
    ("allocator_bytes", "by the runtime's allocator"),
)
"""Fields of ``Memory`` and what they are, in reading order."""


@dataclass(frozen=True)
class Section:
    """One table. notes: sentences that belong to it. heads: of the three columns of figures."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    heads: tuple[str, str, str] = ("dense", "compressed", "")


def sections(report: Report) -> list[Section]:
    """Every table of the report, in reading order."""
    found = [_model(report)]
    found += [choice_section(choice) for choice in report.choices]
    found += [_target(result) for result in report.targets]
    found += [loop_section(result) for result in shown_loops(report)]
    found += [_ladder(ladder) for ladder in report.ladders]
    found += [
        Section(served.title(name, sides), served.rows(sides), served.notes(sides))
        for name, sides in served.by_target(report.served).items()
    ]
    if report.quality:
        found.append(_quality(report))
    return found


def headline(report: Report) -> str:
    """One sentence: how much smaller, faster, how close."""
    if report.compressed is None:
        return f"{report.model.name}: {count(report.model.params)} parameters"
    parts = [f"{change(report.model.macs, report.compressed.macs)} MACs"]
    parts += speed.headline_parts(report.targets, report.pipeline)
    ssim = (report.quality or {}).get("ssim")
    if ssim:
        parts.append(f"SSIM {number(ssim['mean'], 3)} to dense")
    return f"{report.model.name}: " + ", ".join(parts)


def _model(report: Report) -> Section:
    dense, small = report.model, report.compressed
    rows: list[Row] = []
    figures = (
        ("parameters", dense.params, small.params if small else None, count),
        ("MACs per call", dense.macs, small.macs if small else None, count),
        ("weights on disk", dense.bytes, small.bytes if small else None, size),
    )
    for what, before, after, show in figures:
        if before is not None:
            shown = "-" if after is None else show(after)
            rows.append((what, show(before), shown, change(before, after)))
    return Section(f"{dense.name} ({dense.class_name})", rows, _told(report))


def _told(report: Report) -> list[str]:
    """What the data were, and what was said on the way to the compressed model."""
    data, distilled = report.data or {}, report.distillation or {}
    origin = [f"data: {data['origin']}"] if data.get("notes") else []
    return [*report.notes, *origin, *data.get("notes", ()), *distilled.get("notes", ())]


def _target(result: TargetResult) -> Section:
    title = f"{result.target}, {result.precision}, {result.shape_words}"
    dense, small = result.dense, result.compressed
    rows: list[Row] = []
    if dense.latency_ms and small.latency_ms and result.speedup:
        rows += _latency_rows(result)
    for name, what in MEMORY:
        before, after = getattr(dense.memory, name), getattr(small.memory, name)
        if before is not None:
            rows.append((what, size(before), size(after), change(before, after)))
    rows.append(
        (
            "built in",
            f"{dense.build_seconds:.1f} s",
            f"{small.build_seconds:.1f} s",
            "",
        )
    )
    return Section(title, rows, _target_notes(result))


def choice_section(choice: PrecisionChoice) -> Section:
    """Every precision that was tried on one target, and the one that was taken."""
    rows: list[Row] = []
    notes = [f"{choice.chosen} is taken: the fastest that passes parity on both sides"]
    for one in choice.tries:
        if one.latency_ms is None or one.over_fp32 is None:
            notes.append(f"{one.precision} is not to be had: {one.absent}")
            continue
        taken = " (taken)" if one.precision == choice.chosen else ""
        shown = milliseconds(one.latency_ms.p50)
        rows.append((f"compressed, {one.precision}{taken}", shown, _over(one), _closest(one)))
        for side, parity in one.parity.items():
            if not parity.passed:
                notes.append(f"{one.precision} fails parity ({side}): {parity.reason}")
    rest = next((c for one in choice.tries for c in one.ssim.values()), None)
    if rest is not None:
        notes.append(f"SSIM to the fp32 engine's images: {rest.n} trajectories, {rest.steps} steps")
    title = f"precision on {choice.target}, batch {choice.batch}"
    return Section(title, rows, notes, ("p50", "than fp32", "SSIM"))


def _over(one: PrecisionTry) -> str:
    if one.precision == "fp32" or one.over_fp32 is None:
        return ""
    faster = f"{one.over_fp32.median:.2f}x"
    return f"{faster} as fast" if one.over_fp32.shown else f"{faster}, not shown"


def _closest(one: PrecisionTry) -> str:
    found = one.ssim.get("compressed")
    return "" if found is None else f"{found.mean:.4f}, least {found.least:.4f}"


def _latency_rows(result: TargetResult) -> list[Row]:
    """One call of the network: a sampling loop makes one or two of them at each step."""
    dense, small = result.dense, result.compressed
    rows = _times_rows(result, "one call")
    rows.append(
        ("first call", milliseconds(dense.first_call_ms), milliseconds(small.first_call_ms), "")
    )
    each = [rate(speed.calls_per_s(side, result.batch)) for side in (dense, small)]
    rows.append(("calls per second", each[0], each[1], ""))
    return rows


def _times_rows(result: TargetResult, what: str) -> list[Row]:
    """Median and tail of ``what``, and its speed-up with the interval below it."""
    dense, small, speedup = result.dense.latency_ms, result.compressed.latency_ms, result.speedup
    assert dense and small and speedup
    faster, within = speed.cells(speedup)
    return [
        (f"{what}, p50", milliseconds(dense.p50), milliseconds(small.p50), faster),
        ("", "", "", within),
        (f"{what}, p99", milliseconds(dense.p99), milliseconds(small.p99), ""),
    ]


def _target_notes(result: TargetResult) -> list[str]:
    notes = []
    if result.noise is not None:
        notes.append(noise_words(result.noise))
    if result.absent:
        notes.append(f"latency not measured: {result.absent}")
    if result.efficiency is not None:
        unsure = result.speedup is not None and not result.speedup.shown
        of_none = f", of {speed.NOT_SHOWN}" if unsure else ""
        said = f"efficiency (speed-up / reduction of MACs): {result.efficiency:.2f}"
        notes.append(said + of_none)
    if result.parity is not None:
        verdict = "passed" if result.parity.passed else f"FAILED ({result.parity.reason})"
        said = f"parity against torch fp32: {verdict}"
        if result.parity.rel_l2 is not None:
            said += f", relative error {result.parity.rel_l2:.1e}"
        if result.parity.trajectory_ssim is not None and result.precision != "fp32":
            said += f", SSIM {result.parity.trajectory_ssim:.4f} after a short trajectory"
        notes.append(said)
    return notes


def shown_loops(report: Report) -> list[TargetResult]:
    """The results of the sampling loop, without those whose reason a call's result has already."""
    said = {(result.target, result.absent) for result in report.targets}
    return [r for r in report.pipeline if not r.absent or (r.target, r.absent) not in said]


def loop_section(result: TargetResult) -> Section:
    """Whole images: the sampling loop with all that belongs to it, as its title says."""
    rows: list[Row] = []
    if result.dense.latency_ms and result.compressed.latency_ms and result.speedup:
        rows = _times_rows(result, speed.images(result))
        each = [rate(speed.images_per_s(side)) for side in (result.dense, result.compressed)]
        rows.append(("images per second", each[0], each[1], ""))
    return Section(speed.image_title(result), rows, speed.loop_notes(result))


def _ladder(ladder: Ladder) -> Section:
    place = f"{ladder.target}, {ladder.precision}, batch {ladder.batch}"
    rows: list[Row] = []
    for rung in ladder.rungs:
        if rung.latency_ms is not None:
            time = milliseconds(rung.latency_ms.p50)
            rows.append((speed.label(ladder, rung), time, factor(rung), whole(rung)))
    notes = [f"{r.label}: not measured: {r.absent}" for r in ladder.rungs if r.absent]
    marked = speed.busy_note(ladder)
    if marked is not None:
        notes = [marked, *([noise_words(ladder.noise)] if ladder.noise else []), *notes]
    heads = ("p50", "by", "in all")
    return Section(f"where the speed-up comes from: {place}", rows, notes, heads)


def factor(rung: Rung) -> str:
    """'1.67x pruning': what this rung's change is worth."""
    found = rung.over_previous
    return "" if found is None else f"{found.median:.2f}x {rung.cause}"


def whole(rung: Rung) -> str:
    """'4.20x [4.11, 4.32]': how much faster than the first rung."""
    found = rung.over_first
    return "" if found is None else f"{found.median:.2f}x {interval(found.ci95)}"


def noise_words(noise: Noise) -> str:
    """One sentence of how restless the machine was."""
    parts = []
    if noise.against_itself is not None:
        low, high = noise.against_itself.ci95
        parts.append(f"dense against itself 95 % {interval((low, high), 3)}")
    if not noise.steady:
        parts.append("times did not settle in the warm-up")
    if noise.load is not None:
        parts.append(f"load {noise.load:.1f} on {noise.cores} cores")
    if noise.gpu_busy is not None:
        parts.append(f"the GPU was shared: {noise.gpu_busy}")
    return "noise of the machine: " + ", ".join(parts or ["not known"])


def _quality(report: Report) -> Section:
    quality = report.quality or {}
    absent: dict[str, str] = quality.get("absent", {})
    rows: list[Row] = []
    notes: list[str] = []
    for name, digits in (("ssim", 3), ("psnr", 2)):
        if figure := quality.get(name):
            rows.append(_mean_row(name.upper(), figure, digits))
            notes = [
                f"{figure['n']} image{'s' * (figure['n'] != 1)} from the same noise, "
                f"{figure['sampler']}, "
                f"{figure['steps']} steps, seed {', '.join(map(str, figure['seeds']))}"
                + (f", guidance {scale:g}" if (scale := figure.get("guidance", 1)) != 1 else "")
            ]
        elif name in absent:
            rows.append((name.upper(), "", "-", ""))
    shown = {"ssim", "psnr", *({"lpips"} if "lpips" in quality else {})}
    notes += dict.fromkeys(why for name, why in absent.items() if name in shown)
    distances = _distances(report)
    if any(name in quality for name in _DISTANCES):
        notes.append("distances: ± one standard error; fewer images give a larger Frechet distance")
    return Section("compressed against dense samples", rows + distances, notes)


def _mean_row(name: str, figure: dict[str, Any], digits: int) -> Row:
    """A mean over images and its interval; a dash for what is not a number."""
    said = interval(figure["ci95"], digits)
    return name, "", number(figure["mean"], digits), f"95 % {said}" if said != "-" else "one image"


_DISTANCES = {"frechet": ("Frechet distance", "FID"), "kernel": ("kernel distance", "KID")}


def _distances(report: Report) -> list[Row]:
    """LPIPS, and each side's distance to reference images, where they were asked for."""
    held, rows = report.quality or {}, list[Row]()
    if figure := held.get("lpips"):
        rows.append(_mean_row("LPIPS", figure, 3))
    for name, (long, short) in _DISTANCES.items():
        if figure := held.get(name):
            on = figure["features"]
            said = short if on == "InceptionV3" else f"{long} on {on}"
            against = f"to {figure['reference']['n']} images"
            errors = figure.get("se", {})
            dense, compressed = (
                f"{figure[side]:.4g}" + (f" ± {errors[side]:.2g}" if side in errors else "")
                for side in ("dense", "compressed")
            )
            rows.append((said, dense, compressed, against))
    return rows
