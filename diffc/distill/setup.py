"""What a distillation run is made of: accelerator, models on their device, optimiser, average."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffc.data.precision import channels_last, fast_dtype
from diffc.data.processes import on_cpu, process_share
from diffc.data.sharding import shard_model
from diffc.distill.draw import Batch
from diffc.distill.low_rank import learn, trained_parameters
from diffc.distill.muon import Muon
from diffc.errors import RequestError, UnavailableError
from diffc.launch import checkpointing_is_configured, without_fsdp
from diffc.models.families.base import Family
from diffc.recipe.sections.distill import OF_OTHER_TRAININGS
from diffc.recipe.sections.training import (
    NOT_IN_KEYS,
    LowRankSection,
    TrainingSection,
    check_batch,
    check_shardable,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ADAM_BETAS = (0.9, 0.99)


def make_accelerator(options: TrainingSection, logs: Path, section: str = "distill") -> Any:
    """An Accelerator for whatever launched this process; autocast and scaling stay ours.

    Args:
        options: How to train.
        logs: The folder of trackers that write files.
        section: What a recipe calls the options. Trackers see each training of a run by its own
            name: both count their steps from 1.

    Raises:
        UnavailableError: A tracker is unknown, or not installed.
        RequestError: The batch does not split over the processes.
    """
    from accelerate import Accelerator

    check_trackers(options.trackers)
    process_share()  # joins the group, with the timeout that this work needs
    with without_fsdp():
        accelerator = Accelerator(
            cpu=on_cpu(),
            mixed_precision="no",
            log_with=list(options.trackers) or None,
            project_dir=logs if options.trackers else None,
        )
    check_batch(options, accelerator.num_processes)
    if options.trackers:
        accelerator.init_trackers(f"diffc-{section.replace('.', '-')}")
    return accelerator


def check_trackers(names: Sequence[str]) -> None:
    """Raise UnavailableError for a tracker that accelerate would leave out silently."""
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    ready = {str(getattr(kind, "value", kind)) for kind in get_available_trackers()}
    known = sorted({str(getattr(kind, "value", kind)) for kind in LOGGER_TYPE_TO_CLASS})
    for name in names:
        if name not in known:
            raise UnavailableError(
                f"accelerate knows no tracker '{name}'", hint=f"known: {', '.join(known)}"
            )
        if name not in ready:
            package = "'diffc[trackers]'" if name == "tensorboard" else name.replace("_", "-")
            raise UnavailableError(
                f"the tracker '{name}' needs a package that is not installed",
                hint=f"pip install {package}",
            )


def prepare_models(
    teacher: nn.Module | None,
    student: nn.Module,
    options: TrainingSection,
    device: torch.device,
) -> None:
    """Device, layout, modes. Dropout stays off: the student imitates a deterministic function."""
    if teacher is not None:  # first, for it may be the student itself
        teacher.to(device).eval().requires_grad_(False)
        channels_last(teacher)
    learn(student.to(device).float().eval())
    if device.type != "cpu":  # GroupNorm's backward pass is slow in channels_last on CPUs
        channels_last(student)
    if options.gradient_checkpointing:
        checkpoint_activations(student)
    if options.compile:
        for model in (student, teacher):
            if model is not None:
                model.compile()  # in place: names of parameters and modules stay


def as_called(student: nn.Module, accelerator: Any) -> Any:
    """Return the student as a step calls it: itself, or in DistributedDataParallel.

    Args:
        student: The network, prepared.
        accelerator: Of ``make_accelerator``.
    """
    model = accelerator.prepare_model(student)
    if model is not student and not hasattr(model, "config"):  # families read it of what they call
        model.config = getattr(student, "config", {})
    return model


def checkpoint_activations(student: nn.Module) -> None:
    if not getattr(student, "_supports_gradient_checkpointing", False):
        raise RequestError(f"{type(student).__name__} knows no gradient checkpointing")
    student.enable_gradient_checkpointing()  # type: ignore[operator]


def sharded_student(
    student: nn.Module,
    family: Family,
    options: TrainingSection,
    device: torch.device,
    dtype: torch.dtype,
) -> nn.Module:
    """Return a sharded copy of the student to train; it stays as it is.

    Args:
        student: The first process's has the weights.
        family: Of its class.
        options: How to train.
        device: Of this process.
        dtype: Of the forward passes.

    Raises:
        RequestError: The options ask for what a sharded student cannot do.
    """
    check_shardable(options)
    learn(student.float().eval())
    sharded = shard_model(student, family, device, dtype)
    if options.gradient_checkpointing or checkpointing_is_configured():
        checkpoint_activations(sharded)
    return sharded


def choose_dtype(options: TrainingSection, device: torch.device) -> torch.dtype:
    """The forward passes' type; raises RequestError for fp16 on a CPU."""
    if options.precision == "fp16" and device.type == "cpu":
        raise RequestError("precision fp16 trains on GPUs only", hint="use auto, bf16 or fp32")
    return dtype_of(options.precision, device)


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """The type that a recipe's ``precision`` means on ``device``."""
    return fast_dtype(device) if precision == "auto" else DTYPES[precision]


def make_optimizer(
    student: nn.Module, options: TrainingSection, device: torch.device
) -> torch.optim.AdamW:
    """The optimiser with its state made beforehand, so that a checkpoint can be read into it."""
    parameters = list(trained_parameters(student).values())
    rate, decay = options.learning_rate, options.weight_decay
    if options.optimizer == "muon":
        optimizer: torch.optim.AdamW = Muon(parameters, rate, ADAM_BETAS, decay)
    else:
        fused = device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(parameters, rate, ADAM_BETAS, weight_decay=decay, fused=fused)
    matrices = set(optimizer.matrices) if isinstance(optimizer, Muon) else set()
    for parameter in parameters:
        state = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(parameter),
        }
        if parameter not in matrices:
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        optimizer.state[parameter] = state
    return optimizer


def make_ema(student: nn.Module, options: TrainingSection) -> Any:
    """diffusers' moving average of the parameters that are trained, or None for decay 0."""
    from diffusers.training_utils import EMAModel

    if not options.ema_decay:
        return None
    parameters = trained_parameters(student).values()
    return EMAModel(parameters, decay=options.ema_decay, foreach=True)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``."""
    conditions = {name: rows.to(device) for name, rows in batch.conditions.items()}
    return Batch(batch.clean.to(device), batch.noise.to(device), batch.t.to(device), conditions)


def lost_peer(error: BaseException) -> bool:
    """Whether another process of the launch went away in the middle of a collective."""
    said = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, torch.distributed.DistError) or any(s in str(error) for s in said)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bits of a tensor's values."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return raw.numpy().tobytes()


def run_key(
    student: nn.Module,
    digests: Iterable[bytes],
    options: TrainingSection,
    seed: int = 0,
    low_rank: LowRankSection | None = None,
) -> str:
    """A hash of what decides a run's weights.

    Args:
        student: The network, with its weights at the start.
        digests: What identifies the data (``Lesson.digests``).
        options: How to train.
        seed: Of everything random.
        low_rank: The additions that are trained, if any are.
    """
    digest = hashlib.sha256()
    options_text = options.model_dump_json(
        exclude={*NOT_IN_KEYS, "quality_every", "low_rank", *OF_OTHER_TRAININGS}
    )
    digest.update(f"{options_text} {seed}".encode())
    if low_rank is not None and low_rank.rank:
        digest.update(low_rank.model_dump_json().encode())
    for tensor in student.state_dict().values():
        digest.update(tensor_bytes(tensor))
    for content in digests:
        digest.update(content)
    return digest.hexdigest()
