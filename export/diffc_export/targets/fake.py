"""fake: a target without a runtime, for tests of everything above the targets.

Its engine is a number; a call multiplies ``sample`` by it. The seconds of a call are not measured
but computed, from the model's MACs, its batch, and a seeded wobble, so that a test knows what the
statistics must find. Its name is not listed by ``names()``.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from diffc_export.events import Progress, Work
from diffc_export.targets import engine, shapes
from diffc_export.targets.base import Array, Arrays, BuildOptions, Status, TargetFacts
from diffc_export.targets.onnx_file import read_onnx
from diffc_runtime import machine

NAME = "fake"
FILE = "scale.txt"


class Fake:
    """See diffc_export.targets.base.Target."""

    facts = TargetFacts(
        name=NAME,
        device="cpu",
        packages=(),
        requires=(),
        libraries=(),
        alignment={"fp32": 16},
        ahead_of_time=False,
        graphs="never",
        hinted=frozenset(),
        asymmetric=False,
        loader=None,
        triton=None,
        model_server=False,
        runs_torch=False,
    )

    def status(self) -> Status:
        """Always there."""
        return Status(True, True, True, "", {"fake": "1.0"}, "no device")

    def precisions(self) -> frozenset[str]:
        """Whatever is asked."""
        return frozenset({"fp32", "fp16", "bf16", "int8", "fp8"})

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[engine.EngineInfo]:
        """Write the number 1."""
        model = read_onnx(folder)
        precision = engine.asked_precision(model, options.precision)
        served = shapes.profiles(model, options)
        yield Progress(0, 1, "pretending")
        with engine.new_engine_folder(out) as new:
            (new / FILE).write_text("1.0")
            info = engine.EngineInfo(
                target=NAME,
                versions={"fake": "1.0"},
                device=machine.cpu.cpu_fingerprint(),
                tied_to=("fake",),
                inputs=model.inputs,
                outputs=model.outputs,
                precision_asked=precision,
                precision_found=precision,
                precision_shares={precision: 1.0},
                profiles=tuple(served),
                threads=options.threads,
                source=model.content,
            )
            return engine.write_info(new, info)

    def load(self, folder: Path, threads: int | None = None) -> FakeEngine:
        """Read the number back."""
        info = engine.open_engine(folder, NAME, {"fake": "1.0"})
        return FakeEngine(info, float((folder / FILE).read_text()))


class FakeEngine:
    """See diffc_export.targets.base.LoadedEngine."""

    def __init__(self, info: engine.EngineInfo, scale: float = 1.0) -> None:
        self.info = info
        self._scale = scale

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """``sample`` times the scale."""
        shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        return {self.info.outputs[0].name: inputs["sample"] * self._scale}  # type: ignore[operator]

    def bind(self, inputs: Arrays) -> FakeCall:
        """A call whose seconds are computed."""
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        seconds = 1e-12 * float(self.info.source.get("macs") or 1e9) * shapes.batch_of(call)
        return FakeCall(seconds * _scale(self.info, call), self(inputs))

    def bind_uncaptured(self, inputs: Arrays) -> FakeCall:
        """Return a call that is a quarter slower, as if it were not captured as a graph."""
        bound = self.bind(inputs)
        bound._seconds *= 1.25
        return bound

    def close(self) -> None:
        """Nothing is held."""


def _scale(info: engine.EngineInfo, call: shapes.Call) -> float:
    """By how much a call's samples are larger than the working size."""
    shape = shapes.output_shape(info.inputs, info.outputs[0], call)[1:]
    return math.prod(shape) / math.prod(info.outputs[0].shape)


class FakeCall:
    """Computed seconds: the first call takes ten times as long, the others wobble by 2 %."""

    def __init__(self, seconds: float, outputs: dict[str, Array]) -> None:
        self._seconds = seconds
        self._outputs = outputs
        self._wobble = random.Random(0)  # noqa: S311 - not for secrets
        self._calls = 0

    def run(self) -> float:
        """Return the seconds that one call would take; nothing runs, and nobody waits."""
        self._calls += 1
        slow = 10.0 if self._calls == 1 else 1.0
        return self._seconds * slow * self._wobble.uniform(0.98, 1.02)

    def outputs(self) -> dict[str, Array]:
        """What any run gives."""
        return self._outputs


TARGET = Fake()
