"""One thing to time, and how it says what it found."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

SIDES = ("dense", "compressed")
RUNTIMES = ("ort-cpu", "openvino")
Call = Callable[[], Any]
Bind = Callable[[Mapping[str, Tensor]], Call]
"""Inputs -> a call that returns the output."""


@dataclass
class Candidate:
    """One thing to time. kind: its precision class. reason: why it is absent, if it is."""

    name: str
    who: str
    runtime: str
    side: str
    kind: str = "fp32"
    call: Call | None = None
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def timed(function: Call) -> Call:
    """A call that returns its seconds."""

    def call() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return call


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)
