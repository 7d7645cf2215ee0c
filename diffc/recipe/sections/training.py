"""What every training of a recipe has: the optimiser, its average, memory and what watches it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffc.errors import RequestError
from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import Words

OF_MEMORY = ("gradient_accumulation", "gradient_checkpointing", "by_block")
"""Options that change what a training, or the importance, takes of memory and time, and of its
result the rounding."""
NOT_IN_KEYS = ("checkpoint_every", "trackers", *OF_MEMORY)
"""Options that do not change a run's result: another value of them trains nothing anew."""

TRAINED_BYTES, LEARNT_BYTES, RANKED_BYTES, WEIGHT_BYTES, GRADIENT_BYTES = 20, 16, 8, 4, 4
"""Of a parameter in float32: weight, gradient, AdamW's two moments and the moving average of a
student; the same without the average; weight and gradient of a network whose importance is
measured; a weight alone; a gradient alone."""


class LowRankSection(RecipeSection):
    """``distill.low_rank``: low-rank additions that are trained in the place of the weights.

    Every linear layer and convolution gets matrices B A, which are merged into its weight at the
    end (Hu et al. 2021); all else stays as it was cut. It is of every training of a run: of all
    noise levels, of the loops, of blocks alone. Gradients, the optimiser's state and the moving
    average are then those of the additions.

    Attributes:
        rank: rows of A; 0 trains the weights themselves. A layer that is narrower has its own.
        alpha: B A is multiplied by alpha / rank; without a value alpha is the rank.
    """

    rank: int = Field(default=0, ge=0)
    alpha: float | None = Field(default=None, gt=0)

    @property
    def scale(self) -> float:
        """What B A is multiplied by; the same in every layer."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def bytes_of_student(self) -> int:
        """Bytes that a training has for each of the student's own parameters."""
        return WEIGHT_BYTES if self.rank else TRAINED_BYTES


OWN_WEIGHTS = LowRankSection()
"""No additions: the weights themselves are trained."""


class TrainingSection(RecipeSection):
    """How to train a student.

    Attributes:
        steps: steps of the optimiser; 0 does not train.
        batch: samples per optimiser step, over all processes and accumulation together.
        optimizer: ``adamw``, or ``muon``, whose steps on matrices are orthogonal.
        learning_rate: the highest learning rate.
        weight_decay: of the optimiser.
        warmup: steps of linear warm-up, a quarter of the steps at most; the learning rate then
            falls as a cosine to 0.
        ema_decay: ceiling of the moving average's decay, which starts low (diffusers' warm-up);
            0 for no moving average.
        precision: ``fp32``, ``bf16`` or ``fp16``; ``auto`` is bf16 where the device is fast at it,
            else fp32.
        gradient_accumulation: pieces in which each process works its share of a batch.
        gradient_checkpointing: True saves memory, and computes activations twice.
        clip_grad: ceiling of the gradient's norm; 0 for no ceiling.
        checkpoint_every: steps between checkpoints.
        compile: True compiles the networks with torch.compile. The first steps wait for it; GPUs
            gain most.
        trackers: names that accelerate knows, such as ``tensorboard``; trackers that write files do
            so in OUT/logs.
    """

    steps: int = Field(default=400, ge=0)
    batch: int = Field(default=16, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=20, ge=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_accumulation: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    clip_grad: float = Field(default=1.0, ge=0)
    checkpoint_every: int = Field(default=100, ge=1)
    compile: bool = False
    trackers: Words = ()


def check_batch(options: TrainingSection, processes: int) -> None:
    """Refuse a batch that the processes of a launch cannot share alike.

    Raises:
        RequestError: Their number does not divide it.
    """
    if options.batch % processes:
        raise RequestError(
            f"a batch of {options.batch} does not split over {processes} processes",
            hint="make the batch a multiple of the number of processes",
        )


def check_shardable(options: TrainingSection) -> None:
    """Refuse options of a student that is sharded over several processes.

    Raises:
        RequestError: One works for a whole student alone.
    """
    for what, instead, is_asked in (
        ("distill.compile", "compile: false", options.compile),
        ("precision fp16", "bf16", options.precision == "fp16"),
    ):
        if is_asked:
            raise RequestError(
                f"{what} does not work for a sharded student",
                hint=f"use {instead}, or --shard off",
            )
