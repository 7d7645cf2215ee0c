"""CleanSet: the clean samples x_0 that importance, distillation and parity noise and denoise.

On disk it is one safetensors file: ``sample`` (N, C, H, W) in the denoiser's own input range, and
one tensor for each condition (``class_labels`` (N,), ``encoder_hidden_states`` (N, L, D), ...),
aligned row by row, and ``null.NAME`` (...) for each null condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffc.data.tensors import NULL


@dataclass(frozen=True)
class CleanSet:
    """N clean samples and their conditions.

    Attributes:
        sample: float32 (N, C, H, W), in [-1, 1] for images and in latent units for latent models.
        conditions: Name -> tensor with N rows.
        origin: The source of the samples, in words, for reports.
        null: Name -> (...), the value that means "no condition" in classifier-free guidance.
    """

    sample: Tensor
    conditions: Mapping[str, Tensor]
    origin: str
    null: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample)

    def rows(self, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the samples and conditions at ``index`` (B,)."""
        return self.sample[index], {name: rows[index] for name, rows in self.conditions.items()}

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {"sample": self.sample.contiguous()}
        tensors |= {name: rows.contiguous() for name, rows in self.conditions.items()}
        tensors |= {NULL + name: value.contiguous() for name, value in self.null.items()}
        save_file(tensors, path, metadata={"origin": self.origin})

    @classmethod
    def load(cls, path: Path) -> CleanSet:
        """Read the file that ``save`` wrote."""
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            origin = (file.metadata() or {}).get("origin", "unknown")
        null = {
            name.removeprefix(NULL): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(NULL)
        }
        return cls(tensors.pop("sample"), tensors, origin, null)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``n`` rows, drawn with replacement by ``generator``."""
        return self.rows(torch.randint(len(self), (n,), generator=generator))
