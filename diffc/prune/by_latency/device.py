"""Where latencies are taken for planning: a target and how engines are built for it.

Imports no torch, since it is part of the keys of stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffc.errors import RequestError, UnavailableError
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions


@dataclass(frozen=True)
class LatencyDevice:
    """A target. batch: images in one call. threads: None: the machine's cores.

    cache: the folder that keeps tables of latencies from run to run; None: not kept.
    """

    target: str
    precision: str = "fp32"
    batch: int = 1
    threads: int | None = None
    cache: Path | None = None

    @property
    def options(self) -> BuildOptions:
        """How an engine is built for it."""
        return BuildOptions(batch=(self.batch,), threads=self.threads)

    def facts(self) -> Mapping[str, Any]:
        """What a latency depends on besides the network."""
        status = target(self.target).status()
        options = {key: value for key, value in asdict(self).items() if key != "cache"}
        return options | {"versions": dict(status.versions), "device": status.device}

    def check(self) -> None:
        """Raise when no engine of an ONNX file can be built and run here."""
        if target(self.target).facts.runs_torch:
            raise RequestError(
                f"latencies of single layers are measured on ONNX graphs, which {self.target} does"
                " not run",
                hint="use another --target, or --allocate global",
            )
        status = target(self.target).status()
        if not (status.buildable and status.runnable):
            raise UnavailableError(
                f"latency on '{self.target}' cannot be measured here: {status.reason}",
                hint="plan with --allocate global --ratio-of macs, or on the target's machine",
            )
