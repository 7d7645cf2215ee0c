"""The distillation loop, on Hugging Face accelerate.

One optimiser step works a global batch that depends on (seed, step) alone (draw.py), split over the
processes and then into pieces. A run can be killed at any moment: called again with the same
arguments it goes on from its last checkpoint to the same weights. At the end the student holds the
moving average.

    distill         the entry: a generator of Progress that returns a DistillResult
    Run             the state of a run, with its parts: setup, one step, checkpoint, resume
    learning_rate   warm-up and cosine

What goes wrong on the way: a loss or gradient that is not finite stops the run before the weights
change (under fp16, gradients of ``SKIPS`` steps in a row); running out of memory halves the pieces
and repeats the same step, or, where several processes share it, stops the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffc.data.clean import CleanSet
from diffc.data.precision import autocast
from diffc.distill.checkpoint import Checkpoint, newest, save
from diffc.distill.draw import Batch, draw_batch
from diffc.distill.losses import (
    Features,
    Kept,
    feature_loss,
    split_weights,
    step_loss,
    timestep_weights,
)
from diffc.distill.options import DistillOptions
from diffc.distill.setup import (
    choose_dtype,
    lost_peer,
    make_accelerator,
    make_ema,
    make_optimizer,
    prepare_models,
    run_key,
    to_device,
)
from diffc.errors import InputError, RequestError, UnavailableError
from diffc.models.diffusion import Process
from diffc.models.families.base import Family
from diffc_export.events import Progress, Work
from diffc_export.targets.out_of_memory import is_out_of_memory

SKIPS = 20
"""Steps in a row that fp16's overflow may take: the scale has then fallen a million times."""

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


def distill(
    teacher: nn.Module,
    student: nn.Module,
    family: Family,
    clean: CleanSet,
    process: Process,
    options: DistillOptions,
    folder: Path,
    kept: Kept | None = None,
    null: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    judge: Judge | None = None,
    logs: Path | None = None,
) -> Work[DistillResult]:
    """Train ``student`` in place to behave as ``teacher``; returns a DistillResult.

    clean: the samples to noise, with the conditions that the models take.
    folder: where checkpoints go, and where a killed run is resumed from.
    kept: for the feature loss, each block's kept output channels (losses.py).
    null: a null condition (...) for each condition's name, for classifier-free guidance.
    seed: of the order of data, the timesteps and the noise.
    judge: how alike samples of the moving average and of the teacher are, every
        ``options.quality_every`` steps.
    logs: where trackers write; None: ``folder``/logs.

    Raises RequestError for options that cannot be (and for a loss that is not finite),
    InputError for an empty ``clean``, UnavailableError when a checkpoint cannot be written, or
    several processes run out of memory or lose one another.
    """
    run = Run.start(teacher, student, family, clean, process, options, folder, kept, null,
                    seed, judge, logs or folder / "logs")  # fmt: skip
    for note in run.resume():
        yield run.progress(note)
    try:
        with _faults_of_several(run.accelerator.num_processes):
            yield from run.find_pieces()
            while run.step < options.steps:
                yield from run.one_step()
                if judge is not None and run.wants_quality:
                    yield from run.measure_quality()
                if run.step % options.checkpoint_every == 0 or run.step == options.steps:
                    run.checkpoint()
    finally:
        run.close()
    return run.finish()


def learning_rate(step: int, options: DistillOptions) -> float:
    """The rate of step ``step`` (from 0): linear warm-up, then a cosine to 0 at ``steps``."""
    warmup = min(options.warmup, options.steps // 4)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, options.steps - warmup)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


@contextmanager
def _faults_of_several(processes: int) -> Iterator[None]:
    """Say plainly what ends one of several processes, and what the others see of it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if processes > 1 and is_out_of_memory(error):
            raise UnavailableError(
                f"out of memory while {processes} processes shared a step",
                hint="try a higher gradient_accumulation, gradient_checkpointing, or precision "
                "bf16; the same command goes on from the last checkpoint",
            ) from error
        if processes > 1 and lost_peer(error):
            raise UnavailableError(
                "another process of this launch ended, and training with it",
                hint="its own message says why; the same command goes on from the last checkpoint",
            ) from error
        raise


@dataclass
class Run:
    """The state of a run; ``step`` counts the optimiser steps that are done."""

    teacher: nn.Module
    student: nn.Module
    model: nn.Module  # the student as accelerate prepared it (DistributedDataParallel, or itself)
    family: Family
    clean: CleanSet
    process: Process
    options: DistillOptions
    folder: Path
    density: Tensor  # (T,) from which t is drawn
    weights: Tensor  # (T,) by which the losses at t are weighed
    kept: Kept
    null: dict[str, Tensor]
    accelerator: Any
    optimizer: torch.optim.AdamW
    ema: Any
    scaler: torch.amp.GradScaler
    dtype: torch.dtype
    key: str
    pieces: int
    hooks: list[Features]
    seed: int
    judge: Judge | None
    step: int = 0
    resumed_from: int = 0
    skipped: int = 0  # steps in a row that fp16's overflow left out
    losses: list[tuple[int, float]] = field(default_factory=list)
    quality: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def start(
        cls,
        teacher: nn.Module,
        student: nn.Module,
        family: Family,
        clean: CleanSet,
        process: Process,
        options: DistillOptions,
        folder: Path,
        kept: Kept | None,
        null: Mapping[str, Tensor] | None,
        seed: int,
        judge: Judge | None,
        logs: Path,
    ) -> Run:
        """Check the request, move everything to its device, make the optimiser."""
        if not len(clean):
            raise InputError("there are no samples to distil with")
        accelerator = make_accelerator(options, logs)
        device = accelerator.device
        key = run_key(student, clean, options, seed)
        prepare_models(teacher, student, options, device)
        density, weights = split_weights(timestep_weights(process, options), options.focus)
        kept = dict(kept or {}) if options.losses.features else {}
        if options.losses.features and not kept:
            raise RequestError("the feature loss needs to know which channels were kept")
        return cls(
            teacher=teacher,
            student=student,
            model=accelerator.prepare_model(student),
            family=family,
            clean=clean,
            process=process,
            options=options,
            folder=folder,
            density=density,
            weights=weights,
            kept=kept,
            null=dict(null or {}),
            accelerator=accelerator,
            optimizer=make_optimizer(student, options, device),
            ema=make_ema(student, options),
            scaler=torch.amp.GradScaler(device.type, enabled=options.precision == "fp16"),
            dtype=choose_dtype(options, device),
            key=key,
            pieces=options.gradient_accumulation,
            hooks=[Features(teacher, kept), Features(student, kept)],
            seed=seed,
            judge=judge,
        )

    @property
    def rows(self) -> range:
        """This process's rows of the global batch."""
        share = self.options.batch // self.accelerator.num_processes
        rank = self.accelerator.process_index
        return range(rank * share, (rank + 1) * share)

    def progress(self, note: str = "distilling", **values: float) -> Progress:
        """An event at this step."""
        return Progress(self.step, self.options.steps, note, values)

    def draw(self) -> Batch:
        """This process's rows of the present step, on its device."""
        batch = draw_batch(
            self.clean, self.options, self.density, self.step, self.rows, self.null, self.seed
        )
        return to_device(batch, self.accelerator.device)

    def one_step(self) -> Iterator[Progress]:
        """One optimiser step; raises RequestError when it is not finite."""
        started = time.perf_counter()
        batch = self.draw()
        while True:
            try:
                loss = self._backward(batch)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.accelerator.num_processes > 1:
                    raise
                self._halve(len(batch), error)
                yield self.progress(self.notes[-1])
        self._update(loss)
        self.seconds += time.perf_counter() - started
        if self.step % max(1, self.options.steps // 200) == 0 or self.step == self.options.steps:
            self.losses.append((self.step, loss))
            self.accelerator.log({"loss": loss, "images_per_s": self.speed or 0}, step=self.step)
        yield self.progress(loss=loss, images_per_s=self.speed or 0.0)

    @property
    def wants_quality(self) -> bool:
        """Whether the step just done is one to take samples at."""
        every = self.options.quality_every
        return bool(every) and (self.step % every == 0 or self.step == self.options.steps)

    def measure_quality(self) -> Iterator[Progress]:
        """Ask the judge about the moving average, on the first process; the others wait."""
        if self.judge is not None and self.accelerator.is_main_process:
            parameters = list(self.student.parameters())
            if self.ema is not None:
                self.ema.store(parameters)
                self.ema.copy_to(parameters)
            ssim = self.judge(self.student)
            if self.ema is not None:
                self.ema.restore(parameters)
            for hook in self.hooks:
                hook.take()
            self.quality.append((self.step, ssim))
            self.accelerator.log({"ssim": ssim}, step=self.step)
            yield self.progress(ssim=ssim)
        self.accelerator.wait_for_everyone()

    @property
    def speed(self) -> float | None:
        """Images per second over this call's steps, all processes together."""
        made = (self.step - self.resumed_from) * self.options.batch
        return made / self.seconds if self.seconds and made else None

    def _backward(self, batch: Batch) -> float:
        """Gradients of the batch's mean loss; returns that loss over all processes."""
        total = torch.zeros((), device=self.accelerator.device)
        parts = batch.pieces(self.pieces)
        for i, part in enumerate(parts):
            with self._sync(last=i == len(parts) - 1):
                loss = self._loss(part) * (len(part) / len(batch))
                torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach()
        return float(self.accelerator.reduce(total, "mean"))

    def _sync(self, *, last: bool) -> AbstractContextManager[Any]:
        no_sync: AbstractContextManager[Any] = self.accelerator.no_sync(self.model)
        return nullcontext() if last else no_sync

    def _loss(self, batch: Batch) -> Tensor:
        options = self.options
        inputs = {
            "sample": self.process.noised(batch.clean, batch.noise, batch.t),
            "timestep": self.process.time(batch.t),
            **batch.conditions,
        }
        wants_teacher = options.losses.output or options.losses.features
        with autocast(self.accelerator.device, self.dtype):
            with torch.no_grad():
                dense = self.family.call(self.teacher, inputs) if wants_teacher else None
            output = self.family.call(self.model, inputs)
        caught = [hook.take() for hook in self.hooks]
        features = feature_loss(caught[1], caught[0], self.kept) if self.kept else None
        weights = self.weights.to(batch.t.device)[batch.t]
        return step_loss(output, dense, batch, self.process, options.losses, weights, features)

    def _update(self, loss: float) -> None:
        """Clip, step, average; nothing is changed when loss or gradient is not finite."""
        parameters = list(self.student.parameters())
        self.scaler.unscale_(self.optimizer)
        ceiling = self.options.clip_grad or math.inf
        norm = float(nn.utils.clip_grad_norm_(parameters, ceiling))
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        allowed = SKIPS - 1 if self.scaler.is_enabled() else 0
        if not math.isfinite(loss) or self.skipped > allowed:
            raise self._not_finite(loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.options)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(parameters)
        self.step += 1

    def _not_finite(self, loss: float, norm: float) -> RequestError:
        bad_loss = not math.isfinite(loss)
        what = f"the loss is {loss}" if bad_loss else f"the gradient's norm is {norm}"
        last = self.step // self.options.checkpoint_every * self.options.checkpoint_every
        kept = f"the checkpoint of step {last} is kept" if last else "no checkpoint was made yet"
        lower = self.options.learning_rate / 3
        precision = "" if self.dtype == torch.float32 else ", or precision fp32"
        return RequestError(
            f"distillation stopped at step {self.step + 1} of {self.options.steps}: {what}; {kept}",
            hint=f"try learning_rate {lower:.1e}{precision}, or a longer warmup, under distill in "
            "a recipe: diffc distill OUT --recipe FILE.yaml",
        )

    def _halve(self, rows: int, error: BaseException) -> None:
        """Twice as many pieces; raises UnavailableError when one row is already too much."""
        self.optimizer.zero_grad(set_to_none=True)
        for hook in self.hooks:
            hook.take()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.pieces >= rows:
            raise UnavailableError(
                "there is not enough memory to train on a single sample",
                hint="try gradient_checkpointing, or precision bf16",
            ) from error
        self.pieces = min(rows, self.pieces * 2)
        size = -(-rows // self.pieces)
        self.notes.append(
            f"out of memory: going on with {size} samples at a time "
            f"(the batch stays {self.options.batch})"
        )

    def find_pieces(self) -> Iterator[Progress]:
        """With several processes: a trial that changes nothing, so that all agree on the pieces.

        A process that ran out of memory inside a step would leave the others waiting for it.
        """
        if self.accelerator.num_processes == 1 or self.step >= self.options.steps:
            return
        batch = self.draw()
        while True:
            try:
                with self.accelerator.no_sync(self.model):
                    torch.autograd.backward(self._loss(batch.pieces(self.pieces)[0]))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(batch), error)
                yield self.progress(self.notes[-1])
        self.optimizer.zero_grad(set_to_none=True)
        mine = torch.tensor([self.pieces], device=self.accelerator.device)
        self.pieces = int(self.accelerator.gather(mine).max())

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, live: read by ``checkpoint``, written by ``resume``."""
        named = {}
        for i, (name, parameter) in enumerate(self.student.named_parameters()):
            state = self.optimizer.state[parameter]
            named[f"weights.{name}"] = parameter.data
            named[f"exp_avg.{name}"] = state["exp_avg"]
            named[f"exp_avg_sq.{name}"] = state["exp_avg_sq"]
            if self.ema is not None:
                named[f"ema.{name}"] = self.ema.shadow_params[i]
        return named

    def checkpoint(self) -> None:
        """Write the state; the first process does, the others wait."""
        if self.accelerator.is_main_process:
            scaler = {k: v for k, v in self.scaler.state_dict().items() if k != "growth_interval"}
            first = next(iter(self.optimizer.state.values()))
            numbers = {
                "losses": self.losses,
                "quality": self.quality,
                "scaler": scaler,
                "adam_step": float(first["step"]),
            }
            save(Checkpoint(self.step, self.key, self.tensors(), numbers), self.folder)
        self.accelerator.wait_for_everyone()

    def resume(self) -> list[str]:
        """Take up the newest sound checkpoint; returns what there is to say about it.

        The first process reads, and sends the others the state: they need not share its disk.
        """
        found: Checkpoint | None = None
        notes: list[str] = []
        if self.accelerator.is_main_process:
            found, notes = newest(self.folder, self.key)
        step, adam_step = 0, 0.0
        if found is not None:
            own = self.tensors()
            for name, tensor in found.tensors.items():
                own[name].copy_(tensor)
            if self.scaler.is_enabled():
                self.scaler.load_state_dict({**self.scaler.state_dict(), **found.numbers["scaler"]})
            self.losses = [(int(step), loss) for step, loss in found.numbers["losses"]]
            self.quality = [(int(step), ssim) for step, ssim in found.numbers["quality"]]
            step, adam_step = found.step, float(found.numbers["adam_step"])
        self._share(step, adam_step)
        if self.step:
            notes.append(f"going on from step {self.step}")
        self.notes += notes
        return notes

    def _share(self, step: int, adam_step: float) -> None:
        """Give every process the first one's state, fp16's scale included."""
        scaler = self.scaler.state_dict() or {"scale": 0.0, "_growth_tracker": 0}
        numbers = torch.tensor(
            [step, adam_step, scaler["scale"], scaler["_growth_tracker"]],
            dtype=torch.float64, device=self.accelerator.device,
        )  # fmt: skip
        if self.accelerator.num_processes > 1:
            for tensor in [numbers, *self.tensors().values()]:
                torch.distributed.broadcast(tensor, src=0)
        self.step = self.resumed_from = int(numbers[0])
        if self.scaler.is_enabled():
            shared = {"scale": float(numbers[2]), "_growth_tracker": int(numbers[3])}
            self.scaler.load_state_dict({**scaler, **shared})
        for state in self.optimizer.state.values():
            state["step"].fill_(float(numbers[1]))
        if self.ema is not None:
            self.ema.optimization_step = self.step

    def close(self) -> None:
        """Take out hooks and compiled code and end the trackers, whatever happened."""
        for hook in self.hooks:
            hook.remove()
        for model in (self.teacher, self.student):
            model._compiled_call_impl = None
        for tracker in self.accelerator.trackers:  # end_training would end the process group too
            tracker.finish()

    def finish(self) -> DistillResult:
        """Give the student the moving average."""
        if self.ema is not None and self.step:
            self.ema.copy_to(self.student.parameters())
        self.student.requires_grad_(False)
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
