"""``distill``: losses and training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.sections.training import LowRankSection, TrainingSection
from diffc.recipe.words import Fraction

OF_THE_LOOP = ("aim", "loop")
"""Options of the training that comes after: they change nothing of the first one."""
OF_OTHER_TRAININGS = (*OF_THE_LOOP, "block_local")
"""Options of the trainings before and after the one of all noise levels."""


class LossesSection(RecipeSection):
    """``distill.losses``: the weight of each term; 0 leaves the term out.

    Attributes:
        output: squared error to the dense model's output, in the model's own parametrisation.
        noise: squared error to the output of a perfect model (the training loss of the paper).
        features: squared error to the dense model's block outputs on the kept channels; each block
            is divided by the dense model's own mean square (distill/blocks.py names the blocks).
            The recipe ``unet2d`` has it on, since it was measured there (bench/quality).
    """

    output: float = Field(default=1.0, ge=0)
    noise: float = Field(default=0.0, ge=0)
    features: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _check_weights(self) -> LossesSection:
        if not (self.output or self.noise or self.features):
            raise ValueError("distill.losses: every weight is 0, so that nothing would be learned")
        return self


class LoopTrainingSection(TrainingSection):
    """``distill.loop``: how to distil for the loops that are served.

    Attributes:
        steps: steps of the optimiser, after those of ``distill.steps``.
        features: weight of the difference between the dense model's features of the state that
            the student's output leads to and of the state that it should lead to
            (distill/loop/features.py), beside 1 for the error in the output. The recipe ``unet2d``
            has it on, since it was measured there (bench/loop_students.py).
        trajectories: how many of the dense model's trajectories are made to learn from.
        teacher_steps: about how many steps of DPM-Solver++ one of them has.
    """

    steps: int = Field(default=1000, ge=0)
    batch: int = Field(default=32, ge=1)
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=20, ge=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    features: float = Field(default=0.0, ge=0)
    trajectories: int = Field(default=2048, ge=1)
    teacher_steps: int = Field(default=12, ge=1)


class BlockLocalSection(RecipeSection):
    """``distill.block_local``: how each block learns alone, before the network does.

    Forward passes run in ``distill.precision``, and in fp32 in the place of fp16.

    Attributes:
        steps: steps of AdamW for each block; 0 trains none.
        rows: noised samples whose activations the blocks learn from, a quarter of which only judge.
            Activations are in temporary files, one block's at a time.
        batch: samples of a step, and of a call of the dense network.
        learning_rate: the highest learning rate; it rises over a tenth of the steps and then falls
            as a cosine to 0.
    """

    steps: int = Field(default=0, ge=0)
    rows: int = Field(default=256, ge=4)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)


class DistillSection(TrainingSection):
    """``distill``: how to distil.

    Attributes:
        aim: ``all-steps``: the student behaves as the dense model at all noise levels, so that any
            loop samples it. ``loop``: then it learns the loops of the recipe, down to one call,
            and serves these alone.
        losses: the weights of the loss's terms.
        weighting: over timesteps. ``path``: by how far an error at t moves the sample along the
            sampler's path; ``min_snr``: min(SNR, min_snr_gamma) on the loss in x_0 (Hang et al.
            2023); ``none``: 1 in the model's own parametrisation.
        min_snr_gamma: of ``min_snr``.
        focus: the part of the weighting (as an exponent) that is done by drawing t more often where
            the weight is high, instead of weighing the loss.
        timesteps: ``stratified`` spreads each batch evenly over the density of t; ``uniform`` draws
            each t independently.
        null_share: share of rows whose conditions are replaced by the null ones, where there are
            any, so that classifier-free guidance is distilled too.
        quality_every: steps between samples of the student beside the dense model's; 0 for no
            samples.
        low_rank: low-rank additions in the place of the weights, where these have no room.
        loop: how to train for the loops, where that is the aim.
        block_local: how each block learns alone, right after the repair.
    """

    aim: Literal["all-steps", "loop"] = "all-steps"
    losses: LossesSection = LossesSection()
    weighting: Literal["path", "min_snr", "none"] = "path"
    min_snr_gamma: float = Field(default=5.0, gt=0)
    focus: Fraction = Field(default=0.0, ge=0, le=1)
    timesteps: Literal["stratified", "uniform"] = "stratified"
    null_share: Fraction = Field(default=0.1, ge=0, le=1)
    quality_every: int = Field(default=0, ge=0)
    low_rank: LowRankSection = LowRankSection()
    loop: LoopTrainingSection = LoopTrainingSection()
    block_local: BlockLocalSection = BlockLocalSection()
