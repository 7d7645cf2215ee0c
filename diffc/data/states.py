"""The states that drawn samples went through, for trajectories that visit the same timesteps.

A sample of the dense model and a trajectory of it are the same work where both take as many steps
of the same solver. What the samples went through is kept then, and read in the place of new calls.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class DrawnStates:
    """What samples went through from noise.

    Attributes:
        times: (S,) the timestep of each call, the noisiest first.
        x: float16 (N, S, *sample), the state after each call; the last one is the sample before
            anything was clipped.
        stream: Of the keys (seed, stream, i) that the noise of sample i was drawn by.
        guidance: The scale of classifier-free guidance; 1 for none.
    """

    times: tuple[float, ...]
    x: Tensor
    stream: int
    guidance: float

    def __len__(self) -> int:
        return len(self.x)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        facts = {"times": self.times, "stream": self.stream, "guidance": self.guidance}
        save_file({"x": self.x.contiguous()}, path, metadata={"facts": json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> DrawnStates:
        """Read the file that ``save`` wrote."""
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            return cls(
                tuple(facts["times"]), file.get_tensor("x"), facts["stream"], facts["guidance"]
            )

    def after(self, rows: range, calls: Sequence[int]) -> Tensor:
        """(len(rows), len(calls), *sample): the states after so many calls each."""
        places = torch.tensor([count - 1 for count in calls])
        return self.x[rows.start : rows.stop].index_select(1, places)
