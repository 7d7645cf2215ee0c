"""What a Triton server adds to an engine: an image's time, and where a step of it goes."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffc.bundle.served import image_inputs
from diffc.measure.latency import LatencyOptions, interleaved
from diffc.measure.statistics import paired_ratio
from diffc_export.events import drain

Call = Callable[[], object]
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")
"""A model's own statistics of where its requests' time went."""


@dataclass(frozen=True)
class Turns:
    """What calls took that were made in turn.

    Attributes:
        seconds: Call -> (rounds,), by the clock.
        processor: Call -> its processor time, the mean, of the calls that name a process.
    """

    seconds: dict[str, np.ndarray]
    processor: dict[str, float]

    def over(self, name: str, *alone: str) -> dict[str, Any]:
        """The median of one call's paired ratios to the sum of others, and its 95 % interval."""
        ratio = paired_ratio(self.seconds[name], sum(self.seconds[one] for one in alone))
        return {"median": ratio.median, "ci95": list(ratio.ci95), "pairs": ratio.pairs}


def in_turn(
    calls: Mapping[str, Call], rounds: int, processes: Mapping[str, int] | None = None
) -> Turns:
    """Time calls in turn, in a random order within each round (``latency.interleaved``).

    With the same order in every round, whatever runs after a pause of its process would pay for
    what the pause made cold.

    Args:
        calls: Name -> call.
        rounds: How often each has its turn.
        processes: Name -> the process that the call's processor time is taken of, with all that
            it started.
    """
    timed = {name: _Timed(call, (processes or {}).get(name)) for name, call in calls.items()}
    first = {name: call() for name, call in timed.items()}
    options = LatencyOptions(rounds, seconds=0.0, most_seconds=math.inf, warmup_seconds=0.0)
    timings = drain(interleaved(timed, options, first=first))
    processor = {
        name: statistics.fmean(timed[name].processor[-timings.samples[name].size :])
        for name in processes or {}
    }
    return Turns({name: timings.round_medians(name) for name in calls}, processor)


class _Timed:
    """A call that returns its seconds by the clock.

    Args:
        call: The call.
        process: What its processor time is taken of; None: it is not taken.

    Attributes:
        processor: The processor time of each call so far, in seconds.
    """

    def __init__(self, call: Call, process: int | None) -> None:
        self._call, self._process = call, process
        self.processor: list[float] = []

    def __call__(self) -> float:
        before = 0.0 if self._process is None else processor_seconds(self._process)
        start = time.perf_counter()
        self._call()
        seconds = time.perf_counter() - start
        if self._process is not None:
            self.processor.append(processor_seconds(self._process) - before)
        return seconds


def processor_seconds(process: int) -> float:
    """The processor time so far of a process and of all that it started (Linux)."""
    fields = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
    family = {process}
    while more := {pid for pid, each in fields.items() if int(each[1]) in family} - family:
        family |= more
    ticks = sum(int(fields[pid][11]) + int(fields[pid][12]) for pid in family if pid in fields)
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def image_request(
    url: str, model: str, steps: int, more: Mapping[str, np.ndarray] | None = None
) -> Iterator[Call]:
    """A call that requests one image of ``model``."""
    import tritonclient.grpc as client

    inputs = image_inputs(client, steps, more or {})
    with client.InferenceServerClient(url) as channel:
        yield lambda: channel.infer(model, inputs)


def models_ns(url: str) -> dict[str, dict[str, int]]:
    """The nanoseconds so far of the denoiser and the decoder, by what they went into."""
    import tritonclient.grpc as client

    with client.InferenceServerClient(url) as channel:
        return {model: _model_ns(channel, model) for model in ("denoiser", "decoder")}


def _model_ns(channel: Any, model: str) -> dict[str, int]:
    """A model's nanoseconds and its calls; 0 without it."""
    if not channel.is_model_ready(model):
        return dict.fromkeys((*PARTS, "calls"), 0)
    (one,) = channel.get_inference_statistics(model).model_stats
    spent = {name: int(getattr(one.inference_stats, name).ns) for name in PARTS}
    return {**spent, "calls": int(one.inference_stats.success.count)}


def step_parts(
    before: Mapping[str, Mapping[str, int]],
    after: Mapping[str, Mapping[str, int]],
    seconds: Mapping[str, np.ndarray],
    steps: int,
) -> dict[str, float]:
    """Where a step of ``pipeline_bls`` goes, means in milliseconds.

    Args:
        before: ``models_ns`` before the images.
        after: The same after them.
        seconds: Of ``engine``, ``steps`` calls of the denoiser in this process, and of ``served``,
            an image; each (rounds,).
        steps: The steps of an image.
    """
    calls = after["denoiser"]["calls"] - before["denoiser"]["calls"]
    spent = {
        (model, part): (after[model][part] - before[model][part]) / calls / 1e6
        for model in before
        for part in PARTS
    }
    engine = spent["denoiser", "compute_infer"]
    decoder = sum(spent["decoder", part] for part in PARTS)
    server = sum(spent["denoiser", part] for part in PARTS if part != "compute_infer")
    alone, step = (statistics.fmean(seconds[name]) / steps * 1e3 for name in ("engine", "served"))
    return {
        "step": step,
        "engine": alone,
        "to_the_engine": engine - alone,
        "server": server,
        "decoder": decoder,
        "loop": step - engine - server - decoder,
    }
