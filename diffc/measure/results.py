"""What measuring gives, in the form that report.json holds it. Absent is None, with a reason."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from diffc.measure.latency import Timings
from diffc.measure.statistics import Ratio, spread
from diffc_export.targets.onnx_file import size_words
from diffc_runtime.json_types import JsonDict

_CROWDED = 1.5
"""A load of so many times the cores is more than an engine on all of them makes by itself."""


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Latency(_Result):
    """Milliseconds of one engine call; percentiles by trtexec's index rule over n calls."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    n: int


class Memory(_Result):
    """Bytes; see diffc.measure.memory for what each figure is, and ``device_how`` for which.

    absent: why all but the engine's own size could not be measured.
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
    """An engine against torch fp32; see diffc.measure.parity. None where it is not a number.

    trajectory_ssim: of the one image that the short trajectory ends in; None for latents.
    """

    max_abs: float | None
    rel_l2: float | None
    passed: bool
    trajectory_rel_l2: float | None = None
    trajectory_ssim: float | None = None
    tolerance: float
    reason: str = ""


class Speedup(_Result):
    """Median of paired time ratios dense / compressed, and its bootstrap intervals."""

    median: float
    ci95: tuple[float, float]
    ci99: tuple[float, float]
    pairs: int

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the 95 % interval does not hold 1."""
        return not self.ci95[0] <= 1 <= self.ci95[1]

    @classmethod
    def of(cls, ratio: Ratio) -> Speedup:
        """From the statistics' own form."""
        return cls(median=ratio.median, ci95=ratio.ci95, ci99=ratio.ci99, pairs=ratio.pairs)


class Closeness(_Result):
    """SSIM between an engine's images and the fp32 engine's: n trajectories of ``steps`` steps."""

    mean: float
    least: float
    n: int
    steps: int


class PrecisionTry(_Result):
    """One precision of a choice. over_fp32: the fp32 engine's time over this one's, compressed.

    parity, ssim: dense and compressed. absent: why it was not tried, or cannot be had.
    """

    precision: str
    latency_ms: Latency | None = None
    over_fp32: Speedup | None = None
    parity: dict[str, Parity] = Field(default_factory=dict)
    ssim: dict[str, Closeness] = Field(default_factory=dict)
    absent: str | None = None


class PrecisionChoice(_Result):
    """Which precision one target got when it was asked to choose, and what it was chosen from."""

    target: str
    batch: int
    chosen: str
    tries: list[PrecisionTry]


class ServedLevel(_Result):
    """What ``concurrency`` clients got, one image a request; latency by the client's clock."""

    concurrency: int
    requests: int
    errors: int
    seconds: float
    throughput_per_s: float
    latency_ms: Latency | None


class Served(_Result):
    """One side's sampling loop through an inference server.

    steps, sampler, guidance, decoded: what an image is made with, as ``TargetResult.details`` says
    it. in_process_ms: the same in this process, median. overhead: the latency of one client over
    that. absent: why nothing was measured.
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
    """How restless the machine was while these times were taken.

    against_itself: the dense engine's time in one round over its time in the next; 1 on a silent
    machine, and a speed-up inside its interval is none. steady: whether the warm-up ended because
    the times agreed. load: the system's load average over a minute when the timing began; cores:
    how many the machine has for us. gpu_busy: who else was at work on the GPU, for engines on one.
    """

    against_itself: Speedup | None = None
    steady: bool
    load: float | None = None
    cores: int
    gpu_busy: str | None = None

    @property
    def busy(self) -> bool:
        """Whether others were at work, or times never settled: figures may be far off then."""
        crowded = self.load is not None and self.load > _CROWDED * self.cores
        return crowded or not self.steady or self.gpu_busy is not None


class EngineFigures(_Result):
    """One engine at one batch size: of one call, or of the whole loop (``Report.pipeline``).

    first_call_ms: the first call after loading, apart from the rest. calls_per_s: calls of the
    network, whatever their batch. images_per_s: images, of the whole loop alone. throughput_per_s:
    the batch size over the median time: rows of calls, or images of the loop. spread: p90 / p50.
    samples_ms: every single time, in order. absent: why latency is None.
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

    resolution: (H, W) of the sample where the engines serve several, the working one first; None
    where they serve one. efficiency: the speed-up divided by the factor by which MACs fell; None at
    another resolution than the working one, whose MACs those are. parity: the worse of the two
    engines'. absent: why there is no speed-up. details: threads, warm-up, ways of timing, interface
    and served (what the engines take, in words); of the whole loop also what it did: steps,
    scheduler (the model's), sampler, guidance, calls_per_step and rows_per_call, decoded (None: its
    samples are images), notes on what it leaves out.
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
    """Those at the working resolution, which is each target's first."""
    first: dict[str, tuple[int, int] | None] = {}
    return [
        one for one in results if first.setdefault(one.target, one.resolution) == one.resolution
    ]


class Row(_Result):
    """One line of a side-by-side comparison: speed-up is over the first line.

    fault: what its output cannot be (NaN, zero, constant), or None; its times then mean nothing.
    """

    label: str
    target: str
    batch: int
    figures: EngineFigures
    speedup: Speedup | None = None
    fault: str | None = None


class Comparison(_Result):
    """Anything side by side: lines in the order given, and the noise by batch size.

    cores: those that engines on a processor were pinned to. threads: None: as each was built.
    """

    rows: list[Row]
    noise: dict[int, MachineNoise] = Field(default_factory=dict)
    threads: int | None = None
    cores: list[int] = Field(default_factory=list)
    percentile_rule: str
    environment: JsonDict | None = None


def latency_figures(timings: Timings, name: str, batch: int, *, images: bool = False) -> JsonDict:
    """The timing fields of EngineFigures. images: each time is of ``batch`` images, not a call."""
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
