"""The sections of report.html, each a function of the report; None where there is nothing to show.

Every chart has its numbers in a table: in the chart's own rows, or in a table that opens below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffc.measure.results import TargetResult, at_working
from diffc.report import served, svg
from diffc.report.lines import MEMORY, choice_section
from diffc.report.markup import Child, Html, joined, tag
from diffc.report.model import Report
from diffc.report.units import change, count, interval, milliseconds, number, seconds, size


def table(heads: Sequence[str], rows: Sequence[Sequence[Child]], *, left: int = 1) -> Html:
    """A table whose first cell of each row is its header; the first ``left`` columns are text.

    Cells that are pictures take the rest of the width.
    """
    head = tag("tr", *(tag("th", name, scope="col", class_=None if i < left else "n")
                       for i, name in enumerate(heads)))  # fmt: skip
    body = [tag("tr", *(_cell(cell, i, left) for i, cell in enumerate(row))) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")


def _cell(cell: Child, index: int, left: int) -> Html:
    if index == 0:
        return tag("th", cell, scope="row")
    if isinstance(cell, Html):
        return tag("td", cell, class_="bars")
    return tag("td", cell, class_=None if index < left else "n")


def behind(chart: Html, heads: Sequence[str], rows: Sequence[Sequence[Child]]) -> Html:
    """A chart, and its numbers in a table that opens."""
    return joined(chart, tag("details", tag("summary", "The numbers"), table(heads, rows)))


def memory(report: Report) -> Html | None:
    """Every memory figure, as bars on one scale per kind."""
    blocks = [block for result in report.targets if (block := _memory_of(result)) is not None]
    return joined(*blocks) if blocks else None


def _memory_of(result: TargetResult) -> Html | None:
    rows: list[Sequence[Child]] = []
    for field, name in MEMORY:
        before = getattr(result.dense.memory, field)
        after = getattr(result.compressed.memory, field)
        if before is None or after is None:
            continue
        most = max(before, after, 1)
        rows.append((f"{name}: dense", size(before), "", svg.bar(before / most)))
        rows.append((f"{name}: compressed", size(after), change(before, after),
                     svg.bar(after / most, second=True)))  # fmt: skip
    if not rows:
        return None
    title = f"{result.target}, {result.precision}, {result.shape_words}"
    how = result.dense.memory.device_how
    note = tag("p", f"GPU memory read by {how}.", class_="soft") if how else None
    return joined(tag("h3", title), table(["", "bytes", "change", ""], rows), note)


def widths(report: Report) -> Html | None:
    """Channels before and after in every group; the outline is the dense width."""
    if report.plan is None:
        return None
    groups = report.plan["groups"]
    most = max(group["size"] for group in groups)
    rows = [
        (group["name"], str(group["size"]), str(group["kept"]),
         f"{group['kept'] / group['size']:.0%}", group.get("why") or "",
         svg.bar(group["kept"] / most, group["size"] / most, second=True))
        for group in groups
    ]  # fmt: skip
    heads = ["layer", "dense", "kept", "share", "why fixed", "of the widest"]
    words = tag(
        "p", "The outline is the dense width, the filled part what was kept.", class_="soft"
    )
    return joined(words, tag("div", table(heads, rows), class_="long", tabindex="0", role="region",
                             aria_label="widths of every layer"))  # fmt: skip


def importance(report: Report) -> Html | None:
    """L_t / L_max, the threshold T, and S, the timesteps that count."""
    why = ((report.plan or {}).get("why") or {}).get("importance") or {}
    curve = why.get("curve")
    if not curve:
        return None
    points = list(zip(map(float, curve["t"]), map(float, curve["relative_loss"]), strict=True))
    chosen = [(float(low), float(high)) for low, high in why.get("chosen_t") or ()]
    threshold = why.get("threshold")
    level = None if threshold is None else (float(threshold), f"T = {threshold:g}")
    steps = (why.get("timesteps") or {}).get("of")
    chart = svg.line(
        points, x_name="timestep t", y_name="L_t / L_max", level=level, spans=chosen,
        x_range=(0.0, float(steps)) if steps else None,
        label="the relative loss by timestep; its points are in the table",
    )  # fmt: skip
    share = (why.get("timesteps") or {}).get("share")
    said = f"Method {why['method']}. The shaded timesteps S are those above T"
    said += f", {share:.0%} of all." if isinstance(share, int | float) else "."
    rows = [
        (f"{t:g}", f"{value:.4f}", "yes" if _within(t, chosen) else "no") for t, value in points
    ]
    return joined(tag("p", said, class_="soft"), behind(chart, ["t", "L_t / L_max", "in S"], rows))


def _within(t: float, spans: Sequence[tuple[float, float]]) -> bool:
    return any(low <= t <= high for low, high in spans)


def data(report: Report) -> Html | None:
    """What was trained on, where there is something to say about it."""
    found = report.data or {}
    if not found.get("notes"):
        return None
    said = [f"Clean samples: {found['origin']}.", *map(str, found["notes"])]
    return joined(*(tag("p", words, class_="soft") for words in said))


def distillation(report: Report) -> Html | None:
    """The loss, step by step."""
    found = report.distillation
    if not found or not found.get("losses"):
        return None
    points = [(float(step), float(loss)) for step, loss in found["losses"]]
    chart = svg.line(
        points, x_name="step", y_name="loss", log=True,
        label="the distillation loss by step; its points are in the table",
    )  # fmt: skip
    said = f"{found['steps']} steps"
    if isinstance(found.get("images_per_second"), int | float):
        said += f", {found['images_per_second']:.3g} images per second in {found['precision']}"
    rows = [(f"{step:g}", f"{loss:.4g}") for step, loss in points]
    notes = (tag("p", str(note), class_="soft") for note in found.get("notes") or ())
    return joined(
        tag("p", said + ".", class_="soft"),
        behind(chart, ["step", "loss"], rows),
        _quality_curve(found.get("quality") or ()),
        *notes,
    )


def _quality_curve(found: Sequence[Mapping[str, float]]) -> Html | None:
    """SSIM to the dense model while it was distilled."""
    points = [
        (float(point["step"]), float(point["ssim"]))
        for point in found
        if number(point["ssim"], 3) != "-"
    ]
    if len(points) < 2:
        return None
    chart = svg.line(
        points, x_name="step", y_name="SSIM to the dense model",
        label="SSIM to the dense model by distillation step; its points are in the table",
    )  # fmt: skip
    said = "Samples of the moving average beside the dense model's, few and with few steps."
    rows = [(f"{step:g}", f"{ssim:.3f}") for step, ssim in points]
    return joined(tag("p", said, class_="soft"), behind(chart, ["step", "SSIM"], rows))


def choices(report: Report) -> Html | None:
    """Every precision that was tried, per target that was asked to choose."""
    parts: list[Html] = []
    for choice in report.choices:
        section = choice_section(choice)
        said = (tag("p", words, class_="soft") for words in section.notes)
        parts.append(
            joined(tag("h3", section.title), table(["", *section.heads], section.rows), *said)
        )
    return joined(*parts) if parts else None


def serving(report: Report) -> Html | None:
    """The loop through an inference server."""
    parts = []
    for name, sides in served.by_target(report.served).items():
        figures = table(["", "dense", "compressed", ""], served.rows(sides))
        said = (tag("p", words, class_="soft") for words in served.notes(sides))
        parts.append(joined(tag("h3", served.title(name, sides)), figures, *said))
    return joined(*parts) if parts else None


def stages(report: Report) -> Html | None:
    """How long each stage took, and its memory."""
    if not report.stages:
        return None
    most = max(stage.seconds for stage in report.stages) or 1.0
    rows = [
        (stage.name, seconds(stage.seconds), size(stage.peak_rss_bytes),
         "reused" if stage.cached else "", svg.bar(stage.seconds / most, second=not stage.cached))
        for stage in report.stages
    ]  # fmt: skip
    return table(["stage", "time", "peak memory", "", ""], rows)


def environment(report: Report) -> Html | None:
    """The machine and the versions."""
    found = report.environment
    if not found:
        return None
    gpus = ", ".join(f"{gpu['name']} (driver {gpu['driver']})" for gpu in found["gpus"])
    rows = [
        ("processor", f"{found['cpu']}, {found['cores']} cores"),
        ("GPU", gpus or "none"),
        ("system", f"{found['os']}, Python {found['python']}"),
        ("memory", size(found["memory_bytes"])),
        ("load", ", ".join(f"{x:.2f}" for x in found["load"] or ())),
        ("fingerprint", str(found["fingerprint"])),
        *sorted((str(name), str(version)) for name, version in found["packages"].items()),
    ]
    return table(["", ""], rows, left=2)


def command(report: Report) -> Html | None:
    """What to type to have it again."""
    return None if report.command is None else tag("pre", tag("code", report.command))


def drift(history: Sequence[dict[str, Any]]) -> Html | None:
    """Median latency over a history's lines; one chart per machine, model, target and batch."""
    series: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in history:
        if isinstance(row["p50_ms"], int | float):
            names = ("model", "target", "precision", "batch", "fingerprint")
            key = tuple(str(row[name]) for name in names)
            series.setdefault(key, []).append(row)
    blocks = []
    for key, rows in series.items():
        title = f"{key[0]}, {key[1]} {key[2]}, batch {key[3]} (machine {key[4]})"
        points = [(float(i), float(row["p50_ms"])) for i, row in enumerate(rows, 1)]
        cells = [(str(i), row["created"], f"{row['p50_ms']:.4g}", row["verdict"], row["source"])
                 for i, row in enumerate(rows, 1)]  # fmt: skip
        heads = ["", "when", "p50, ms", "verdict", "what"]
        if len(points) < 2:
            blocks.append(joined(tag("h3", title), table(heads, cells)))
            continue
        chart = svg.line(points, x_name="measurement", y_name="p50, ms",
                         label="median latency over time; its points are in the table")  # fmt: skip
        blocks.append(joined(tag("h3", title), behind(chart, heads, cells)))
    return joined(*blocks) if blocks else None


def pareto(reports: Sequence[tuple[str, Report]]) -> Html | None:
    """Latency against SSIM, compressed engines of every run."""
    points = [
        (f"{name}: {r.target} {r.precision}, {r.shape_words}", r.compressed.latency_ms.p50,
         float(ssim))
        for name, report in reports
        if (ssim := ((report.quality or {}).get("ssim") or {}).get("mean")) is not None
        for r in at_working(report.targets)
        if r.compressed.latency_ms is not None
    ]  # fmt: skip
    if not points:
        return tag("p", "no run has both latency and SSIM")
    best = {
        name for name, x, y in points
        if not any((a <= x and b >= y) and (a < x or b > y) for _, a, b in points)
    }  # fmt: skip
    chart = svg.scatter(
        points, x_name="latency p50, milliseconds", y_name="SSIM to dense",
        label="latency against quality; the numbers stand for the table's rows",
    )  # fmt: skip
    rows = [(f"{i}. {name}", milliseconds(x), f"{y:.3f}", "yes" if name in best else "")
            for i, (name, x, y) in enumerate(points, 1)]  # fmt: skip
    heads = ["", "latency p50", "SSIM", "unbeaten"]
    machines = {(report.environment or {}).get("fingerprint") for _, report in reports
                if any(r.compressed.latency_ms is not None for r in report.targets)}  # fmt: skip
    note = None
    if len(machines) > 1:
        note = tag("p", "These runs were measured on different machines or versions: their times "
                        "cannot be compared.", class_="bad")  # fmt: skip
    return joined(
        note,
        tag("div", chart, tag("div", table(heads, rows)), class_="two"),
        tag("p", "Unbeaten: no other run is both faster and closer to dense.", class_="soft"),
    )


def comparison_table(reports: Sequence[tuple[str, Report]]) -> Html:
    """One column per run."""
    names = dict.fromkeys(name for _, report in reports for name in comparison_rows(report))
    found = [comparison_rows(report) for _, report in reports]
    rows = [(name, *(values.get(name, "-") for values in found)) for name in names]
    return table(["", *(name for name, _ in reports)], rows)


def comparison_rows(report: Report) -> dict[str, str]:
    """What is compared between runs: name -> figure, as text."""
    small = report.compressed or report.model
    rows = {
        "model": report.model.name,
        "parameters": count(small.params),
        "MACs": count(small.macs),
        "weights": size(small.bytes),
    }
    for r in report.targets:
        place = f"{r.target} {r.precision}, {r.shape_words}"
        if r.compressed.latency_ms is not None:
            rows[f"latency p50, {place}"] = milliseconds(r.compressed.latency_ms.p50)
        if r.speedup is not None:
            rows[f"speed-up, {place}"] = f"{r.speedup.median:.2f}x {interval(r.speedup.ci95)}"
        rows[f"peak memory, {place}"] = size(r.compressed.memory.peak_bytes)
    for name in ("ssim", "psnr"):
        figure = (report.quality or {}).get(name)
        if figure:
            rows[name.upper()] = f"{number(figure['mean'], 3)} {interval(figure['ci95'], 3)}"
    return rows
