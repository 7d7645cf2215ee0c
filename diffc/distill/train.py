"""The distillation loop.

One optimiser step works a global batch that depends on (seed, step) alone (draw.py), split over the
processes and then into pieces. At the end the student holds the moving average. The state, with its
checkpoints, is in run.py.

    distill         all noise levels: a generator of Progress that returns a DistillResult
    train           any lesson
    find_pieces     how many pieces memory needs, agreed on by all processes
    one_step        draw, gradients, update
    measure_quality how alike the samples of student and teacher are
    learning_rate   warm-up and cosine

What goes wrong on the way: a loss or gradient that is not finite stops the run before the weights
change (under fp16, gradients of ``SKIPS`` steps in a row); running out of memory halves the pieces
and repeats the same step, or, where several processes share it, stops the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffc.data.clean import CleanSet
from diffc.data.sharding import local, whole
from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.distill.lesson import Lesson, Rows
from diffc.distill.low_rank import trained_parameters
from diffc.distill.run import DistillResult, Judge, Run, TrainingSettings
from diffc.distill.setup import lost_peer
from diffc.errors import RequestError, UnavailableError
from diffc.recipe import DistillSection
from diffc.recipe.sections.training import TrainingSection
from diffc_export.events import Progress, Work
from diffc_runtime.machine.out_of_memory import is_out_of_memory

SKIPS = 20
"""Steps in a row that fp16's overflow may take: the scale has then fallen a million times."""


def distill(
    pair: ModelPair,
    clean: CleanSet,
    options: DistillSection,
    folder: Path,
    *,
    seed: int = 0,
    judge: Judge | None = None,
    logs: Path | None = None,
    shard: bool = False,
) -> Work[DistillResult]:
    """Train the student in place to behave as the teacher at all noise levels.

    Args:
        pair: Teacher and student.
        clean: The samples to noise, with the conditions that the models take and the null
            conditions of classifier-free guidance.
        options: How to train.
        folder: See ``TrainingSettings``, as for the next three.
        seed: Of the order of data, the timesteps and the noise.
        judge: How alike samples of the moving average and of the teacher are.
        logs: Where trackers write.
        shard: Whether the student is sharded, as the teacher is already.

    Raises:
        InputError: ``clean`` is empty; see ``train`` for the others.
    """
    lesson = AllSteps(pair, clean, options, seed)
    settings = TrainingSettings(
        options=options,
        folder=folder,
        seed=seed,
        judge=judge,
        quality_every=options.quality_every,
        logs=logs,
        shard=shard,
        low_rank=options.low_rank,
    )
    return (yield from train(lesson, pair.student, settings))


def train(
    lesson: Lesson[Any], student: nn.Module, settings: TrainingSettings
) -> Work[DistillResult]:
    """Train a student in place.

    Args:
        lesson: The data of each step, and their loss.
        student: The network.
        settings: How it is trained, and where.

    Raises:
        RequestError: Options that cannot be, or a loss that is not finite.
        UnavailableError: A checkpoint cannot be written, or several processes run out of memory or
            lose one another.
    """
    options, judge = settings.options, settings.judge
    run = Run.start(lesson, student, settings)
    try:
        with _faults_of_several(run.accelerator.num_processes):
            for note in run.resume():
                yield run.progress(note)
            yield from find_pieces(run)
            while run.step < options.steps:
                yield from one_step(run)
                if judge is not None and run.wants_quality:
                    yield from measure_quality(run)
                if run.step % options.checkpoint_every == 0 or run.step == options.steps:
                    run.checkpoint()
    finally:
        run.close()
    return run.finish()


def learning_rate(step: int, options: TrainingSection) -> float:
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


def find_pieces(run: Run) -> Iterator[Progress]:
    """With several processes: a trial that changes nothing, so that all agree on the pieces.

    A process that ran out of memory inside a step would leave the others waiting for it. Where the
    student is sharded, they would wait in the trial too: there is none.
    """
    if run.accelerator.num_processes == 1 or run.is_sharded or run.step >= run.options.steps:
        return
    batch = run.draw()
    while True:
        try:
            with run.accelerator.no_sync(run.model):
                piece = max(batch.pieces(run.pieces), key=len)
                torch.autograd.backward(run.lesson.loss(run.model, piece))
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _halve(run, len(batch), error)
            yield run.progress(run.notes[-1])
    run.optimizer.zero_grad(set_to_none=True)
    mine = torch.tensor([run.pieces], device=run.accelerator.device)
    run.pieces = int(run.accelerator.gather(mine).max())


def one_step(run: Run) -> Iterator[Progress]:
    """One optimiser step; raises RequestError when it is not finite."""
    started = time.perf_counter()
    batch = run.draw()
    while True:
        try:
            loss = _backward(run, batch)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or run.accelerator.num_processes > 1:
                raise
            _halve(run, len(batch), error)
            yield run.progress(run.notes[-1])
    _update(run, loss)
    run.seconds += time.perf_counter() - started
    if run.step % max(1, run.options.steps // 200) == 0 or run.step == run.options.steps:
        run.losses.append((run.step, loss))
        run.accelerator.log({"loss": loss, "images_per_s": run.speed or 0}, step=run.step)
    yield run.progress(loss=loss, images_per_s=run.speed or 0.0)


def measure_quality(run: Run) -> Iterator[Progress]:
    """Ask the judge about the moving average, on the first process; the others wait.

    All processes ask where the student is sharded, and get the same answer.
    """
    if run.judge is not None and (run.is_sharded or run.accelerator.is_main_process):
        with _moving_average(run):
            ssim = run.judge(run.student)
        run.lesson.forget()
        run.quality.append((run.step, ssim))
        run.accelerator.log({"ssim": ssim}, step=run.step)
        yield run.progress(ssim=ssim)
    run.accelerator.wait_for_everyone()


@contextmanager
def _moving_average(run: Run) -> Iterator[None]:
    """The student has the moving average inside the block."""
    if run.ema is None:
        yield
        return
    parameters = [value.detach() for value in trained_parameters(run.student).values()]
    trained = [local(parameter).cpu().clone() for parameter in parameters]
    run.take_average()
    yield
    for parameter, value in zip(parameters, trained, strict=True):
        local(parameter).copy_(value)


def _backward(run: Run, batch: Rows) -> float:
    """Gradients of the batch's mean loss; returns that loss over all processes."""
    total = torch.zeros((), device=run.accelerator.device)
    parts = batch.pieces(run.pieces)
    for i, part in enumerate(parts):
        with _sync(run, last=i == len(parts) - 1):
            loss = run.lesson.loss(run.model, part) * (len(part) / len(batch))
            torch.autograd.backward(run.scaler.scale(loss))
        total += loss.detach()
    return float(run.accelerator.reduce(total, "mean"))


def _sync(run: Run, *, last: bool) -> AbstractContextManager[Any]:
    if last or run.is_sharded:  # whole gradients have no room where the student is sharded
        return nullcontext()
    no_sync: AbstractContextManager[Any] = run.accelerator.no_sync(run.model)
    return no_sync


def _update(run: Run, loss: float) -> None:
    """Clip, step, average; nothing is changed when loss or gradient is not finite."""
    parameters = list(trained_parameters(run.student).values())
    run.scaler.unscale_(run.optimizer)
    ceiling = run.options.clip_grad or math.inf
    norm = float(whole(nn.utils.clip_grad_norm_(parameters, ceiling)))
    run.skipped = 0 if math.isfinite(norm) else run.skipped + 1
    allowed = SKIPS - 1 if run.scaler.is_enabled() else 0
    if not math.isfinite(loss) or run.skipped > allowed:
        raise _not_finite(run, loss, norm)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.step, run.options)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    if run.ema is not None:
        run.ema.step(parameters)
    run.step += 1


def _not_finite(run: Run, loss: float, norm: float) -> RequestError:
    bad_loss = not math.isfinite(loss)
    what = f"the loss is {loss}" if bad_loss else f"the gradient's norm is {norm}"
    saved = f"the checkpoint of step {run.saved} is kept"
    kept = saved if run.saved else "no checkpoint was made yet"
    lower = run.options.learning_rate / 3
    precision = "" if run.dtype == torch.float32 else ", or precision fp32"
    return RequestError(
        f"distillation stopped at step {run.step + 1} of {run.options.steps}: {what}; {kept}",
        hint=f"try learning_rate {lower:.1e}{precision}, or a longer warmup, under {run.section} "
        "in a recipe: diffc distill OUT --recipe FILE.yaml",
    )


def _halve(run: Run, rows: int, error: BaseException) -> None:
    """Twice as many pieces; raises UnavailableError when one row is already too much."""
    run.optimizer.zero_grad(set_to_none=True)
    run.lesson.forget()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if run.pieces >= rows:
        raise UnavailableError(
            "there is not enough memory to train on a single sample",
            hint="try gradient_checkpointing, or precision bf16",
        ) from error
    run.pieces = min(rows, run.pieces * 2)
    size = -(-rows // run.pieces)
    run.notes.append(
        f"out of memory: going on with {size} samples at a time "
        f"(the batch stays {run.options.batch})"
    )
