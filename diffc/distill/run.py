"""The state of a distillation run, on Hugging Face accelerate.

    TrainingSettings  how a run is made, and where its files go
    Run               models, optimiser, moving average and counters; checkpoint and resume
    DistillResult     what a finished run reports

A run can be killed at any moment: started again with the same arguments it goes on from its last
checkpoint to the same weights. The steps themselves are in train.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffc.data.processes import shared_text
from diffc.data.sharding import gather_weights, local
from diffc.distill import sharded_checkpoint
from diffc.distill.checkpoint import Checkpoint, newest, save
from diffc.distill.lesson import Lesson
from diffc.distill.low_rank import add_low_rank, merge_low_rank, trained_parameters
from diffc.distill.setup import (
    as_called,
    choose_dtype,
    make_accelerator,
    make_ema,
    make_optimizer,
    prepare_models,
    run_key,
    sharded_student,
)
from diffc.recipe.sections.training import OWN_WEIGHTS, LowRankSection, TrainingSection
from diffc_export.events import Progress
from diffc_runtime.machine.memory import return_large_blocks

Judge = Callable[[nn.Module], float]
"""A student in evaluation mode -> its samples' mean SSIM to the dense model's."""


@dataclass(frozen=True)
class DistillResult:
    """What a run did. The student itself was changed in place and holds the moving average.

    steps: optimiser steps in all; resumed_from: the step this call started at.
    losses: (step, loss) at up to about 200 places, resumed runs' earlier ones included.
    quality: (step, SSIM to the dense model) where it was asked for.
    images_per_second: over this call's steps, checkpoints left out; None when it made none.
    precision: what the forward passes ran in; processes: how many shared each batch.
    pieces: into how many pieces each process's share of a batch was worked in the end.
    notes: what was said on the way (damaged checkpoints, halved pieces).
    """

    steps: int
    resumed_from: int
    losses: list[tuple[int, float]]
    quality: list[tuple[int, float]]
    images_per_second: float | None
    precision: str
    pieces: int
    processes: int
    notes: list[str]


@dataclass(frozen=True)
class TrainingSettings:
    """How a student is trained, and where the run's files go.

    Attributes:
        options: How to train.
        folder: Where checkpoints go, and where a killed run is resumed from.
        seed: Of everything random, which is part of what a checkpoint is known by.
        judge: How alike samples of the moving average and of the teacher are.
        quality_every: Steps between two questions to the judge; 0 for none.
        logs: Where trackers write; None: ``folder``/logs.
        shard: Whether the student is sharded over the processes, as the lesson's dense networks
            then are already. The other processes' may be on the meta device.
        low_rank: The additions that are trained in the place of the weights, if its rank is one.
        section: What a recipe calls ``options``.
    """

    options: TrainingSection
    folder: Path
    seed: int = 0
    judge: Judge | None = None
    quality_every: int = 0
    logs: Path | None = None
    shard: bool = False
    low_rank: LowRankSection = OWN_WEIGHTS
    section: str = "distill"


@dataclass
class Run:
    """The state of a run; ``step`` counts the optimiser steps that are done."""

    lesson: Lesson[Any]
    goal: nn.Module  # the caller's network, which has the weights in the end
    student: nn.Module  # what is trained: ``goal``, or a sharded copy of it
    model: nn.Module  # the student as it is called (DistributedDataParallel, or itself)
    options: TrainingSection
    folder: Path
    accelerator: Any
    optimizer: torch.optim.AdamW
    ema: Any
    scaler: torch.amp.GradScaler
    dtype: torch.dtype
    key: str
    pieces: int
    judge: Judge | None
    quality_every: int = 0
    has_additions: bool = False  # low-rank ones, which are trained in the place of the weights
    section: str = "distill"  # of a recipe, with the options
    step: int = 0
    resumed_from: int = 0
    saved: int = 0  # the step of the newest checkpoint
    skipped: int = 0  # steps in a row that fp16's overflow left out
    losses: list[tuple[int, float]] = field(default_factory=list)
    quality: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def start(
        cls,
        lesson: Lesson[Any],
        student: nn.Module,
        settings: TrainingSettings,
    ) -> Run:
        """Check the request, move everything to its device, make the optimiser.

        Args:
            lesson: The data of each step, and their loss.
            student: The network.
            settings: How it is trained, and where.

        Raises:
            RequestError: Options that cannot be.
        """
        options = settings.options
        logs = settings.logs or settings.folder / "logs"
        accelerator = make_accelerator(options, logs, settings.section)
        device, dtype = accelerator.device, choose_dtype(options, accelerator.device)
        if options.gradient_checkpointing and device.type == "cpu":
            return_large_blocks()
        key, goal = "", student
        if not settings.shard or accelerator.is_main_process:
            digests, low_rank = lesson.digests(), settings.low_rank
            key = run_key(student, digests, options, settings.seed, low_rank)
        notes = []
        if settings.low_rank.rank:
            notes = add_low_rank(student, settings.low_rank, settings.seed)
        if settings.shard:
            key = shared_text(key)
            student = sharded_student(student, lesson.family, options, device, dtype)
            model = student
        else:
            prepare_models(lesson.network, student, options, device)
            model = as_called(student, accelerator)
        lesson.open(student, device, dtype)
        return cls(
            lesson=lesson,
            goal=goal,
            student=student,
            model=model,
            options=options,
            folder=settings.folder,
            accelerator=accelerator,
            optimizer=make_optimizer(student, options, device),
            ema=make_ema(student, options),
            scaler=torch.amp.GradScaler(device.type, enabled=options.precision == "fp16"),
            dtype=dtype,
            key=key,
            pieces=options.gradient_accumulation,
            judge=settings.judge,
            quality_every=settings.quality_every,
            has_additions=bool(settings.low_rank.rank),
            section=settings.section,
            notes=notes,
        )

    @property
    def is_sharded(self) -> bool:
        """Whether every call, and whatever reads a weight, is one of all processes together."""
        return self.student is not self.goal

    @property
    def rows(self) -> range:
        """This process's rows of the global batch."""
        share = self.options.batch // self.accelerator.num_processes
        rank = self.accelerator.process_index
        return range(rank * share, (rank + 1) * share)

    def progress(self, note: str = "distilling", **values: float) -> Progress:
        """An event at this step."""
        return Progress(self.step, self.options.steps, note, values)

    def draw(self) -> Any:
        """This process's rows of the present step, on its device."""
        return self.lesson.draw(self.step, self.rows)

    @property
    def wants_quality(self) -> bool:
        """Whether the step just done is one to take samples at."""
        every = self.quality_every
        return bool(every) and (self.step % every == 0 or self.step == self.options.steps)

    @property
    def speed(self) -> float | None:
        """Images per second over this call's steps, all processes together."""
        images = (self.step - self.resumed_from) * self.options.batch
        return images / self.seconds if self.seconds and images else None

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, live: read by ``checkpoint``, written by ``resume``."""
        named = {}
        for i, (name, parameter) in enumerate(trained_parameters(self.student).items()):
            named[f"weights.{name}"] = parameter.detach()
            for kind, value in self.optimizer.state[parameter].items():
                if kind != "step":
                    named[f"{kind}.{name}"] = value
            if self.ema is not None:
                named[f"ema.{name}"] = self.ema.shadow_params[i]
        return named

    def checkpoint(self) -> None:
        """Write the state; the first process does, the others wait; all do if it is sharded."""
        scaler = {k: v for k, v in self.scaler.state_dict().items() if k != "growth_interval"}
        numbers = {
            "losses": self.losses,
            "quality": self.quality,
            "scaler": scaler,
            # Muon's matrices, and what gets no gradient, count none
            "adam_step": max(float(state["step"]) for state in self.optimizer.state.values()),
        }
        if self.is_sharded or self.accelerator.is_main_process:
            write = sharded_checkpoint.save if self.is_sharded else save
            write(Checkpoint(self.step, self.key, self.tensors(), numbers), self.folder)
        self.accelerator.wait_for_everyone()
        self.saved = self.step

    def resume(self) -> list[str]:
        """Take up the newest sound checkpoint; returns what there is to say about it.

        The first process reads, and sends the others the state: they need not share its disk. All
        processes of a sharded run read.
        """
        notes: list[str] = []
        adam_step: float | None = None
        works = self.is_sharded or self.accelerator.is_main_process
        # a checkpoint of additions has no weights, so what a lesson makes of them is made again
        begun = self.lesson.begin(self.student) if works and self.has_additions else None
        if self.is_sharded:
            record, notes = sharded_checkpoint.load(self.tensors(), self.folder, self.key)
            if record is not None:
                adam_step = self._take_up(record.step, record.numbers)
        elif self.accelerator.is_main_process:
            checkpoint, notes = newest(self.folder, self.key)
            if checkpoint is not None:
                own = self.tensors()
                for name, tensor in checkpoint.tensors.items():
                    own[name].copy_(tensor)
                adam_step = self._take_up(checkpoint.step, checkpoint.numbers)
        if adam_step is None and works:
            notes += self.lesson.begin(self.student) if begun is None else begun
        if self.is_sharded:
            notes.append(f"sharded over {self.accelerator.num_processes} processes")
        self._share(self.step, adam_step or 0.0)
        if self.step:
            notes.append(f"going on from step {self.step}")
        self.notes += notes
        return notes

    def _take_up(self, step: int, numbers: Mapping[str, Any]) -> float:
        """Take a checkpoint's numbers; returns how many steps AdamW has made."""
        if self.scaler.is_enabled():
            self.scaler.load_state_dict({**self.scaler.state_dict(), **numbers["scaler"]})
        self.losses = [(int(step), loss) for step, loss in numbers["losses"]]
        self.quality = [(int(step), ssim) for step, ssim in numbers["quality"]]
        self.step = step
        return float(numbers["adam_step"])

    def _share(self, step: int, adam_step: float) -> None:
        """Give every process the first one's state, fp16's scale included."""
        scaler = self.scaler.state_dict() or {"scale": 0.0, "_growth_tracker": 0}
        numbers = torch.tensor(
            [step, adam_step, scaler["scale"], scaler["_growth_tracker"]],
            dtype=torch.float64,
            device=self.accelerator.device,
        )
        if self.accelerator.num_processes > 1:
            whole = () if self.is_sharded else self.tensors().values()
            kept = [] if self.is_sharded else [p.detach() for p in self.student.parameters()]
            for tensor in (numbers, *whole, *(kept if self.has_additions else ())):
                torch.distributed.broadcast(tensor, src=0)
        self.step = self.resumed_from = self.saved = int(numbers[0])
        if self.scaler.is_enabled():
            shared = {"scale": float(numbers[2]), "_growth_tracker": int(numbers[3])}
            self.scaler.load_state_dict({**scaler, **shared})
        for state in self.optimizer.state.values():
            state["step"].fill_(float(numbers[1]))
        if self.ema is not None:
            self.ema.optimization_step = self.step

    @torch.no_grad()
    def take_average(self) -> None:
        """Give the student the moving average."""
        parameters = trained_parameters(self.student).values()
        pairs = zip(parameters, self.ema.shadow_params, strict=True)
        for parameter, average in pairs:
            local(parameter).copy_(local(average))

    def close(self) -> None:
        """Take out hooks and compiled code and end the trackers, whatever happened."""
        self.lesson.close()
        for model in (self.lesson.network, self.goal):
            if model is not None:
                model._compiled_call_impl = None
        for tracker in self.accelerator.trackers:  # end_training would end the process group too
            tracker.finish()

    def finish(self) -> DistillResult:
        """Give the caller's network the moving average; the first process's, if it is sharded.

        Additions are merged, so that the network is again one of its class.
        """
        if self.ema is not None and self.step:
            self.take_average()
        if self.is_sharded:
            gather_weights(self.student, self.goal)
        self.goal.requires_grad_(False)
        merge_low_rank(self.goal)
        return DistillResult(
            steps=self.step,
            resumed_from=self.resumed_from,
            losses=self.losses,
            quality=self.quality,
            images_per_second=self.speed,
            precision=str(self.dtype).removeprefix("torch."),
            pieces=self.pieces,
            processes=self.accelerator.num_processes,
            notes=self.notes,
        )
