"""The rows of the benchmark: a model and a loop; and their images, made once and kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.quality.study import save_whole
from diffc.data.precision import best_device, channels_last, fast_dtype
from diffc.data.randomness import ImageNoise
from diffc.data.sampling import torch_loop
from diffc.models.denoiser import Denoiser, open_denoiser
from diffc.models.diffusion import served_settings
from diffc.models.inputs import input_specs
from diffc.models.source import Source, find_source
from diffc_runtime.denoising import denoise_whole
from diffc_runtime.loop import Loop

DENSE, COMPRESSED = "dense", "compressed"
REFERENCE = Loop.parse("ddim:50")
"""The dense loop that every image is compared with, and whose calls are the unit of cost."""
SOLVER = tuple(f"dpm++:{steps}@trailing" for steps in (15, 10, 8, 6, 5, 4, 3, 2))
LOOPS = {
    DENSE: ("ddim:50", "ddim:28", "ddim:15", "ddim:10", "ddim:8", "ddim:5", *SOLVER),
    COMPRESSED: ("ddim:50", "ddim:25", "ddim:15", "ddim:10", "ddim:8", "ddim:5", *SOLVER),
}
"""DDIM and DPM-Solver++ from 50 steps down to 2."""
SMALL = {DENSE: ("ddim:4", "dpm++:2@trailing"), COMPRESSED: ("ddim:3", "dpm++:2@trailing")}
BATCH = 64


@dataclass(frozen=True)
class Model:
    """A model that is sampled.

    Attributes:
        label: Its name in the tables.
        folder: A model's folder, or an output folder.
        loops: How it is sampled.
    """

    label: str
    folder: Path
    loops: Sequence[str]

    @cached_property
    def source(self) -> Source:
        inside = self.folder / "model"
        return find_source(str(inside if inside.is_dir() else self.folder))

    def open(self) -> Denoiser:
        """In float32, on this machine's best device."""
        denoiser = open_denoiser(self.source, input_specs(self.source, None, None))
        denoiser.model.to(best_device()).eval()
        return denoiser

    def loop(self, text: str) -> Loop:
        """A loop with nothing left open: ``own`` is the sampler of the model's scheduler."""
        steps = REFERENCE.steps or 1
        return Loop.parse(text).settled(served_settings(self.source.scheduler), steps=steps)

    def key(self, loop: str) -> str:
        return f"{self.label} {loop}"


class Images:
    """Every row's images from the same noise, in the folder of the benchmark's work."""

    def __init__(self, work: Path, n: int, seed: int) -> None:
        self.work, self.n, self.seed = work / "images", n, seed
        self.work.mkdir(parents=True, exist_ok=True)

    def make(self, models: Sequence[Model]) -> None:
        """Make what is missing."""
        for model in models:
            missing = [loop for loop in model.loops if not self._there(model, loop).exists()]
            if missing:
                denoiser = model.open()
                dtype = fast_dtype(best_device())
                network = denoiser.model.to(dtype)
                channels_last(network)
                for loop in missing:
                    start = time.monotonic()
                    images = self.sample(denoiser, model.loop(loop), dtype)
                    # in half precision, for images are shown with 8 bits
                    save_whole({"images": images.half()}, self.path(model, loop))
                    print(f"{model.key(loop)}: {time.monotonic() - start:.0f} s", flush=True)

    def read(self, model: Model, loop: str) -> Tensor:
        """(n, C, H, W) in [-1, 1]."""
        return load_file(self._there(model, loop))["images"][: self.n].float()

    def _there(self, model: Model, loop: str) -> Path:
        """The file of these images, or of more: image i depends on the seed and i alone."""
        own = self.path(model, loop)
        start = own.name.removesuffix(f"{self.n}.safetensors")
        larger = [
            path
            for path in self.work.glob("*.safetensors")
            if path.name.startswith(start) and int(path.stem.removeprefix(start)) >= self.n
        ]
        return min(larger, default=own)

    def path(self, model: Model, loop: str) -> Path:
        digest = model.source.digest[:12]
        return self.work / f"{digest}-{loop}-{self.seed}-{self.n}.safetensors"

    def sample(self, denoiser: Denoiser, loop: Loop, dtype: torch.dtype, n: int = 0) -> Tensor:
        """The first n images (all for 0), with calls of the network in ``dtype``."""
        parts = []
        for first in range(0, n or self.n, BATCH):
            index = range(first, min(first + BATCH, n or self.n))
            parts.append(sample_batch(denoiser, loop, index, self.seed, dtype))
        return torch.cat(parts).clamp(-1, 1)


@torch.inference_mode()
def sample_batch(
    denoiser: Denoiser, loop: Loop, index: range, seed: int, dtype: torch.dtype
) -> Tensor:
    """Images (len(index), C, H, W), float32, on the CPU; the network alone is in ``dtype``."""
    device, shape = best_device(), denoiser.sample_shape
    trajectory = torch_loop(denoiser.scheduler, loop).trajectory(shape)
    noise = ImageNoise(seed, index, shape)

    def call(x: Any, t: float) -> Any:
        sample = x.to(dtype).to(memory_format=torch.channels_last)
        times = torch.full((len(x),), float(t), device=device)
        return denoiser.call({"sample": sample, "timestep": times}).float()[:, : x.shape[1]]

    start: Any = noise.first.to(device) * trajectory.init_noise_sigma
    images: Any = denoise_whole(call, trajectory, start, noise.draw)
    return images.float().cpu().contiguous()
