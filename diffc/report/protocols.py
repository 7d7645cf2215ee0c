"""Whether several runs were measured and judged alike, and if not, in what they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffc.report.loops import both_loops, judged_loop
from diffc.report.model import Report

Named = Sequence[tuple[str, Report]]


def unlike_times(reports: Named) -> list[str]:
    """Why the runs' times cannot be compared with each other; [] where they can.

    The speed-up of a run is of its own two sides, taken in turn, so that another machine's load
    does less to it.
    """
    timed = [(name, report) for name, report in reports if is_timed(report)]
    reasons = []
    machines = {report.environment and report.environment.get("fingerprint") for _, report in timed}
    if len(machines) > 1:
        reasons.append(
            "these runs were measured on different machines or versions: "
            "their times cannot be compared"
        )
    busy = [name for name, report in timed if _is_busy(report)]
    if busy and len(timed) > 1:
        loads = "; ".join(f"{name}: load {load_words(report)}" for name, report in timed)
        reasons.append(
            f"the machine was busy or not steady when it measured {', '.join(busy)}: "
            f"times cannot be compared ({loads})"
        )
    return reasons


def unlike_images(reports: Named) -> list[str]:
    """Why the runs' figures of samples cannot be compared; [] where they can."""
    models = {report.digest for _, report in reports if report.digest is not None}
    reasons = []
    if len(models) > 1:
        reasons.append("these runs are of different dense models: their SSIM cannot be compared")
    ways = _differing(reports, judged_words)
    if ways:
        reasons.append(f"samples were judged in different ways, not to be compared: {ways}")
    return reasons


def judged_words(report: Report) -> str:
    """'32 images, 50 steps, DDIM, seed 0'; '' where no samples were judged."""
    figure = judged_loop(report)
    if figure is None:
        return ""
    count = f"{figure['n']} image{'' if figure['n'] == 1 else 's'}"
    return f"{count}, {both_loops(figure)}, seed {', '.join(map(str, figure['seeds']))}"


def load_words(report: Report) -> str:
    """'1.6 on 2 cores', the highest load under which the run was timed; '-' where none is known."""
    results = [*report.pipeline, *report.targets]
    noises = [result.noise for result in results if result.noise is not None]
    known = [(noise.load, noise.cores) for noise in noises if noise.load is not None]
    if not known:
        return "-"
    load, cores = max(known)
    return f"{load:.1f} on {cores} core{'' if cores == 1 else 's'}"


def _differing(reports: Named, words: Callable[[Report], str]) -> str:
    """'A: ...; B: ...' where the words of the runs differ; '' where they do not."""
    said = [(name, words(report)) for name, report in reports]
    known = [(name, text) for name, text in said if text]
    if len({text for _, text in known}) < 2:
        return ""
    return "; ".join(f"{name}: {text}" for name, text in known)


def is_timed(report: Report) -> bool:
    """Whether an engine of the run was timed."""
    return any(r.compressed.latency_ms is not None for r in [*report.targets, *report.pipeline])


def _is_busy(report: Report) -> bool:
    results = [*report.targets, *report.pipeline]
    return any(result.noise is not None and result.noise.busy for result in results)
