"""Speed-ups and noise in words: of one step, of one image, and whether the noise hides them."""

from __future__ import annotations

import math

from diffc.measure.results import EngineFigures, Ladder, MachineNoise, Rung, Speedup, TargetResult
from diffc.report.units import factor, factor_digits, interval

NOT_SHOWN = "no speed-up shown"
BUSY_MARK = "* "
_SCATTERED = 1.5  # p90 / p50 of a call above which other work ran between the calls


def with_interval(speedup: Speedup) -> str:
    """'0.39x, 95 % [0.27, 1.22] within this run': the drift between runs is not in it."""
    return f"{_in_table(speedup)} within this run"


def _in_table(speedup: Speedup) -> str:
    return f"{factor(speedup.median)}, 95 % {factor_interval(speedup)}"


def factor_words(times: Speedup | None) -> str:
    """'4.20x [4.11, 4.32]'; '-' for none."""
    return "-" if times is None else f"{factor(times.median)} {factor_interval(times)}"


def factor_interval(times: Speedup) -> str:
    """'[1.67, 1.71]': the 95 % interval of a factor, in its own digits."""
    return interval(times.ci95, factor_digits(times.median))


def cells(speedup: Speedup) -> tuple[str, str]:
    """The speed-up and its interval, for the last cells of two rows of a table.

    The second row's name says that the interval is of this run.
    """
    if speedup.is_shown:
        return f"{factor(speedup.median)} as fast", f"95 % {factor_interval(speedup)}"
    return NOT_SHOWN, _in_table(speedup)


def calls_per_s(figures: EngineFigures, batch: int) -> float | None:
    """Calls of the network a second.

    An older report has rows a second alone; the batch size turns them into calls.
    """
    if figures.calls_per_s is not None or figures.throughput_per_s is None:
        return figures.calls_per_s
    return figures.throughput_per_s / batch


def images_per_s(figures: EngineFigures) -> float | None:
    """Images a second of a result of the sampling loop; older reports have another field for it."""
    return figures.throughput_per_s if figures.images_per_s is None else figures.images_per_s


def loop_notes(result: TargetResult) -> list[str]:
    """Notes on what the time of an image leaves out, and on the calls of each step."""
    details = result.details
    if result.absent:
        return [f"not measured: {result.absent}"]
    if "guidance" not in details:
        return ["an older report: the loop had no guidance, conditions of zeros and no decoder"]
    notes = [str(note) for note in details.get("notes", ())]
    calls, rows = details.get("calls_per_step"), details.get("rows_per_call")
    if calls and rows and (calls, rows) != (1, result.batch):
        notes.append(f"each step: {calls} call{'s' if calls > 1 else ''} of batch {rows}")
    return notes


def noise_words(noise: MachineNoise) -> str:
    """One sentence on how much the machine's other work disturbed the times."""
    parts = []
    if noise.against_itself is not None:
        low, high = noise.against_itself.ci95
        parts.append(f"dense against itself 95 % {interval((low, high), 3)}")
    if noise.steady is False:
        parts.append("times did not settle in the warm-up")
    if noise.load is not None:
        parts.append(f"load {noise.load:.1f} on {noise.cores} cores")
    if noise.gpu_busy is not None:
        parts.append(f"the GPU was shared: {noise.gpu_busy}")
    return "noise of the machine: " + ", ".join(parts or ["not known"])


def is_busy(ladder: Ladder, rung: Rung) -> bool:
    """True if the machine's noise or the rung's own times show that other work ran beside it."""
    scattered = rung.latency_ms is not None and (
        rung.latency_ms.p90 > _SCATTERED * rung.latency_ms.p50
    )
    return scattered or (ladder.noise is not None and ladder.noise.busy)


def label(ladder: Ladder, rung: Rung) -> str:
    """The rung's name, with a mark if it was timed on a busy machine."""
    return (BUSY_MARK if is_busy(ladder, rung) else "") + rung.label


def busy_note(ladder: Ladder) -> str | None:
    """The sentence that explains the mark; None if no rung has the mark."""
    timed = [rung for rung in ladder.rungs if rung.latency_ms is not None]
    if not any(is_busy(ladder, rung) for rung in timed):
        return None
    return f"{BUSY_MARK}timed on a busy machine: its factors may be far off"


def product(first: Speedup, second: Speedup) -> Speedup:
    """The product of two ratios that were measured apart, with its intervals.

    Their errors are independent, so the half-widths of the intervals of the logarithms add as
    squares.
    """
    median = first.median * second.median

    def ends(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
        low, high = (
            math.hypot(math.log(a[i] / first.median), math.log(b[i] / second.median))
            for i in (0, 1)
        )
        return median * math.exp(-low), median * math.exp(high)

    return Speedup(
        median=median,
        ci95=ends(first.ci95, second.ci95),
        ci99=ends(first.ci99, second.ci99),
        pairs=min(first.pairs, second.pairs),
    )
