"""Tiny models for the distillation tests; run as a script it is a worker that can be killed.

    python tiny_training.py FOLDER RESULT '{"steps": 9}' [LIMIT BYTES]

distils in FOLDER and writes the final weights to RESULT and the losses beside it. With LIMIT, the
process may take so many bytes more than it has when training starts; each of the student's calls
asks for BYTES for each sample. TINY_OOM=RANK:CALL runs one process out of memory in that call of
its student.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from diffusers import UNet2DModel

from diffc.data.clean import CleanSet
from diffc.distill.all_steps import ModelPair
from diffc.distill.run import DistillResult
from diffc.distill.train import distill
from diffc.models.denoiser import Denoiser
from diffc.models.diffusion import process_from_scheduler
from diffc.models.families.unet2d import FAMILY
from diffc.recipe import DistillSection
from diffc_export.events import Work, drain

PROCESS = process_from_scheduler({"num_train_timesteps": 1000})


def unet(width: int, seed: int, size: int = 8) -> UNet2DModel:
    """A U-Net of ``size`` x ``size`` images with ``width`` and 2 ``width`` channels."""
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )


def teacher(family=FAMILY) -> Denoiser:
    """The dense model, of width 8."""
    return Denoiser(unet(8, seed=0), family, (), PROCESS, {})


def clean(n: int = 12) -> CleanSet:
    """``n`` random samples."""
    sample = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return CleanSet(sample, {}, "random")


def options(**changes) -> DistillSection:
    """Few, small, exact steps."""
    base = {"steps": 6, "batch": 4, "precision": "fp32", "checkpoint_every": 2, "warmup": 2}
    return DistillSection.model_validate({**base, **changes})


def work(
    folder: Path, student=None, family=FAMILY, data=None, kept=None, judge=None, **changes
) -> Work[DistillResult]:
    """A run of the tiny teacher (width 8) on the tiny student (width 4, or the given one)."""
    student = unet(4, seed=1) if student is None else student
    data = clean() if data is None else data
    pair = ModelPair(teacher(family), student, kept)
    return distill(pair, data, options(**changes), folder, judge=judge)


class Faulty:
    """The family, with a fault in the student's call (the narrow model) when ``fault`` says so."""

    def __init__(self, fault) -> None:
        self.fault, self.calls = fault, 0

    def call(self, model, inputs):
        output = FAMILY.call(model, inputs)
        if model.config.block_out_channels[0] == 8:
            return output
        self.calls += 1
        return self.fault(self.calls, output)


def weights(student) -> dict[str, torch.Tensor]:
    """A copy of the state dict."""
    return {name: value.clone() for name, value in student.state_dict().items()}


def same(a, b) -> bool:
    """True if two state dicts hold the same bits."""
    return all(torch.equal(a[name], b[name]) for name in a)


def trained(folder: Path, **changes) -> tuple[dict[str, torch.Tensor], DistillResult]:
    """A finished run in ``folder``: the student's weights, and the result."""
    student = unet(4, seed=1)
    result = drain(work(folder, student, **changes))
    return weights(student), result


class Hungry:
    """The family, whose calls of the student take ``bytes`` of memory for each sample."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted

    def call(self, model, inputs):
        if model.config.block_out_channels[0] == 4:
            torch.empty(len(inputs["sample"]) * self.wanted, dtype=torch.uint8)
        return FAMILY.call(model, inputs)


class Starved:
    """The family, which runs out of memory in the student's call number ``last`` and after."""

    def __init__(self, last: int) -> None:
        self.last, self.calls = last, 0

    def call(self, model, inputs):
        if next(model.parameters()).requires_grad:  # the student, wrapped or not
            self.calls += 1
            if self.calls >= self.last:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return FAMILY.call(model, inputs)


def family_of(wanted: int):
    """The worker's family: FAMILY, or what its arguments and environment make of it."""
    rank, _, last = os.environ.get("TINY_OOM", "-1:0").partition(":")
    if rank == os.environ.get("RANK", "0"):
        return Starved(int(last))
    return Hungry(wanted) if wanted else FAMILY


def kept_halves() -> dict[str, torch.Tensor]:
    """For the feature loss: the student's width 4 stands for the teacher's first channels of 8."""
    blocks = {name: m for name, m in unet(8, seed=0).named_modules() if hasattr(m, "conv2")}
    return {name: torch.arange(m.conv2.out_channels // 2) for name, m in blocks.items()}


def limit_memory(more: int) -> None:
    """Allow ``more`` bytes of address space beyond what is mapped now."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """See the top."""
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    folder, result, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    limit, wanted = (int(word) for word in sys.argv[4:6] or (0, 0))
    student = unet(4, seed=1)
    running = work(folder, student, family=family_of(wanted), kept=kept_halves(), **changes)
    if limit:
        drain(work(folder.with_name("warm"), steps=1))  # everything that is loaded once
        limit_memory(limit)
    done = drain(running)
    save_file({name: p.contiguous() for name, p in student.state_dict().items()}, result)
    report = {"losses": done.losses, "resumed_from": done.resumed_from, "processes": done.processes,
              "notes": done.notes}  # fmt: skip
    result.with_suffix(".json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
