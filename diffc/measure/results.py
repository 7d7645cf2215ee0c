"""The results of measuring, as report.json holds them. An absent figure is None, with a reason."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from diffc.measure.latency import Timings
from diffc.measure.statistics import Ratio, spread
from diffc_export.targets.onnx_file import size_words
from diffc_runtime.json_types import JsonDict

_CROWDED = 1.5
"""Others are at work at a load of so many times the cores: one engine on all cores makes less."""

PRUNING = "pruning"
"""The cause of the last rung: the compressed engine after the dense one, built the same way."""


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


class Latency(_Result):
    """Milliseconds of one engine call; percentiles by trtexec's index rule over n calls."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    n: int


class Memory(_Result):
    """Bytes; diffc.measure.memory defines each figure.

    Attributes:
        device_how: How the memory of the GPU was read.
        absent: Why nothing but the engine's own size could be measured.
    """

    engine_bytes: int
    weights_bytes: int | None = None
    activations_bytes: int | None = None
    runtime_bytes: int | None = None
    peak_bytes: int | None = None
    device_bytes: int | None = None
    device_weights_bytes: int | None = None
    device_activations_bytes: int | None = None
    allocator_bytes: int | None = None
    device_how: str | None = None
    absent: str | None = None


class Parity(_Result):
    """An engine against torch fp32, by diffc.measure.parity. A figure that is not finite is None.

    Attributes:
        max_abs: The largest difference of any element.
        rel_l2: The relative L2 error at the worst noise level.
        passed: Whether the engine computes what torch does.
        trajectory_rel_l2: The relative L2 error after the short trajectory.
        trajectory_ssim: The SSIM of the one image that the trajectory ends in; None for latents.
        tolerance: The largest ``rel_l2`` that passes.
        reason: Why it failed; empty where it passed.
    """

    max_abs: float | None
    rel_l2: float | None
    passed: bool
    trajectory_rel_l2: float | None = None
    trajectory_ssim: float | None = None
    tolerance: float
    reason: str = ""


class Speedup(_Result):
    """Median of paired time ratios dense / compressed, and its intervals."""

    median: float
    ci95: tuple[float, float]
    ci99: tuple[float, float]
    pairs: int

    @property
    def is_shown(self) -> bool:
        """True where the 95 % interval excludes 1; otherwise the difference may be noise.

        One pair has no interval.
        """
        return self.pairs > 1 and not self.ci95[0] <= 1 <= self.ci95[1]

    @classmethod
    def of(cls, ratio: Ratio) -> Speedup:
        """The same ratio as report.json holds it."""
        return cls(median=ratio.median, ci95=ratio.ci95, ci99=ratio.ci99, pairs=ratio.pairs)


class Closeness(_Result):
    """How close an engine's images are to the fp32 engine's: SSIM over short trajectories.

    Attributes:
        mean: The mean SSIM.
        least: The lowest SSIM.
        n: The number of trajectories, each with one image at its end.
        steps: The steps of each trajectory.
    """

    mean: float
    least: float
    n: int
    steps: int


class PrecisionTry(_Result):
    """One precision of a choice.

    Attributes:
        precision: The precision.
        latency_ms: Of the compressed engine.
        over_fp32: The fp32 engine's time over this one's, both compressed.
        parity: Side -> parity.
        ssim: Side -> closeness to the fp32 engine.
        absent: Why it was not tried, or is not available.
    """

    precision: str
    latency_ms: Latency | None = None
    over_fp32: Speedup | None = None
    parity: dict[str, Parity] = Field(default_factory=dict)
    ssim: dict[str, Closeness] = Field(default_factory=dict)
    absent: str | None = None


class PrecisionChoice(_Result):
    """The precision that was chosen for one target, and every precision that was tried."""

    target: str
    batch: int
    chosen: str
    tries: list[PrecisionTry]


class ServedLevel(_Result):
    """A server's answers to ``concurrency`` clients, one image a request, by the client's clock."""

    concurrency: int
    requests: int
    errors: int
    seconds: float
    throughput_per_s: float
    latency_ms: Latency | None


class Served(_Result):
    """One side's sampling loop through an inference server.

    Attributes:
        steps: Of the loop; ``sampler``, ``guidance`` and ``decoded`` as in
            ``TargetResult.details``.
        in_process_ms: The median of the same loop in this process.
        levels: One for each number of clients.
        overhead: The latency of one client over ``in_process_ms``.
        absent: Why nothing was measured.
    """

    target: str
    side: str
    server: str
    client: str | None = None
    steps: int
    sampler: str | None = None
    guidance: float = 1.0
    decoded: bool | None = None
    in_process_ms: float | None = None
    levels: list[ServedLevel] = Field(default_factory=list)
    overhead: float | None = None
    absent: str | None = None


class MachineNoise(_Result):
    """The noise of the machine while these times were taken.

    Attributes:
        against_itself: The dense engine's time in one round over its time in the next. It is 1 on
            a silent machine; a speed-up within its interval is indistinguishable from noise.
        steady: Whether the warm-up ended because the times agreed; None: there was none.
        load: The system's load average over a minute when the timing began.
        cores: The cores that this process may use.
        gpu_busy: Other programs at work on the GPU, for engines on one.
    """

    against_itself: Speedup | None = None
    steady: bool | None
    load: float | None = None
    cores: int
    gpu_busy: str | None = None

    @property
    def shared(self) -> bool:
        """True where others were at work beside the measurement."""
        crowded = self.load is not None and self.load > _CROWDED * self.cores
        return crowded or self.gpu_busy is not None

    @property
    def busy(self) -> bool:
        """True where others were at work or times never settled: figures may be far off then."""
        return self.shared or self.steady is False


class EngineFigures(_Result):
    """One engine at one batch size: of one call, or of the whole loop (``Report.pipeline``).

    Attributes:
        first_call_ms: The first call after loading, apart from the rest.
        calls_per_s: Calls of the network, whatever their batch.
        images_per_s: Images, of the whole loop alone.
        throughput_per_s: The batch size over the median time: rows of calls, or images of the loop.
        spread: p90 / p50.
        samples_ms: Every single time, in order.
        absent: Why latency is None.
    """

    latency_ms: Latency | None = None
    first_call_ms: float | None = None
    calls_per_s: float | None = None
    images_per_s: float | None = None
    throughput_per_s: float | None = None
    spread: float | None = None
    memory: Memory
    build_seconds: float
    precision_found: str
    parity: Parity | None = None
    samples_ms: list[float] = Field(default_factory=list)
    absent: str | None = None


class TargetResult(_Result):
    """Dense against compressed on one target at one batch size.

    Attributes:
        resolution: (H, W) of the sample where the engines serve several, the working one first;
            None where they serve one.
        efficiency: The speed-up divided by the factor by which MACs fell. MACs are of the working
            resolution, so it is None at another.
        parity: The worse of the two engines'.
        absent: Why there is no speed-up.
        details: Threads, warm-up, ways of timing, interface and served (what the engines take, in
            words). Of whole images also steps, sampler and guidance of the compressed model's
            loop, ``reference`` (the same of the dense model's; absent: one loop), calls_per_step,
            rows_per_call, decode_ms (the dense side's mean, of the time that an image takes),
            decoded (None: its samples are images), and notes on what it leaves out.
    """

    target: str
    precision: str
    batch: int
    resolution: tuple[int, int] | None = None
    dense: EngineFigures
    compressed: EngineFigures
    speedup: Speedup | None = None
    efficiency: float | None = None
    parity: Parity | None = None
    noise: MachineNoise | None = None
    absent: str | None = None
    details: JsonDict = Field(default_factory=dict)

    @property
    def shape_words(self) -> str:
        """'batch 1', and where the engines serve several resolutions 'batch 1, 24x24'."""
        at = "" if self.resolution is None else f", {size_words(self.resolution)}"
        return f"batch {self.batch}{at}"


def at_working(results: Iterable[TargetResult]) -> list[TargetResult]:
    """The results at the working resolution, which is the first one of each target."""
    first: dict[str, tuple[int, int] | None] = {}
    return [
        one for one in results if first.setdefault(one.target, one.resolution) == one.resolution
    ]


class Row(_Result):
    """One line of a side-by-side comparison.

    Attributes:
        speedup: Over the first line.
        fault: What is wrong with its output (NaN, zero, constant); its times then mean nothing.
    """

    label: str
    target: str
    batch: int
    figures: EngineFigures
    speedup: Speedup | None = None
    fault: str | None = None


class Comparison(_Result):
    """Anything side by side.

    Attributes:
        rows: In the order given.
        noise: Batch size -> the machine's noise.
        threads: CPU threads of every engine; None: as each was built.
        cores: The cores that engines on a processor were pinned to.
    """

    rows: list[Row]
    noise: dict[int, MachineNoise] = Field(default_factory=dict)
    threads: int | None = None
    cores: list[int] = Field(default_factory=list)
    percentile_rule: str
    environment: JsonDict | None = None


def latency_figures(timings: Timings, name: str, batch: int, *, images: bool = False) -> JsonDict:
    """The timing fields of EngineFigures.

    Args:
        timings: The times of all calls.
        name: The call whose figures these are.
        batch: The batch size.
        images: Each time is of ``batch`` images, not of a call.
    """
    percentiles = timings.percentiles_ms(name)
    a_second = 1e3 / percentiles["p50"]
    return {
        "latency_ms": Latency.model_validate(percentiles),
        "first_call_ms": timings.first[name] * 1e3,
        "images_per_s" if images else "calls_per_s": batch * a_second if images else a_second,
        "throughput_per_s": batch * a_second,
        "spread": spread(timings.times(name)),
        "samples_ms": [round(float(t) * 1e3, 6) for t in timings.times(name)],
    }


class Rung(_Result):
    """One rung: its latency, its factor over the rung before that ran, and over the first.

    Attributes:
        cause: The change from the rung before (engine, precision, graph capture, pruning).
        absent: Why it was not timed.
    """

    label: str
    cause: str
    latency_ms: Latency | None = None
    over_previous: Speedup | None = None
    over_first: Speedup | None = None
    absent: str | None = None


class Ladder(_Result):
    """All rungs of one target at one batch size, timed in turn in one process."""

    target: str
    precision: str
    batch: int
    rungs: list[Rung]
    noise: MachineNoise | None = None
    details: JsonDict = Field(default_factory=dict)
