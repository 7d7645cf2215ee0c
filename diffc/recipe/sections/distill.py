"""``distill``: losses and training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import Fraction, Words

WATCHING = ("checkpoint_every", "trackers")
"""Options that do not change a run's result: another value of them trains nothing anew."""


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


class DistillSection(RecipeSection):
    """``distill``: how to distil.

    Attributes:
        steps: steps of the optimiser; 0 does not distil.
        batch: samples per optimiser step, over all processes and accumulation together.
        learning_rate: the highest learning rate.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up, a quarter of the steps at most; the learning rate then
            falls as a cosine to 0.
        ema_decay: ceiling of the moving average's decay, which starts low (diffusers' warm-up);
            0 for no moving average.
        precision: ``fp32``, ``bf16`` or ``fp16``; ``auto`` is bf16 where the device is fast at it,
            else fp32.
        gradient_accumulation: pieces in which each process works its share of a batch.
        gradient_checkpointing: True saves memory, and computes activations twice.
        losses: the weights of the loss's terms.
        weighting: over timesteps. ``path``: by how far an error at t moves the sample along the
            sampler's path; ``min_snr``: min(SNR, min_snr_gamma) on the loss in x_0 (Hang et al.
            2023); ``none``: 1 in the model's own parametrisation.
        min_snr_gamma: of ``min_snr``.
        focus: the part of the weighting (as an exponent) that is done by drawing t more often where
            the weight is high, instead of weighing the loss.
        timesteps: ``stratified`` spreads each batch evenly over the density of t; ``uniform`` draws
            each t independently.
        clip_grad: ceiling of the gradient's norm; 0 for no ceiling.
        null_share: share of rows whose conditions are replaced by the null ones, where there are
            any, so that classifier-free guidance is distilled too.
        checkpoint_every: steps between checkpoints.
        quality_every: steps between samples of the student beside the dense model's; 0 for no
            samples.
        compile: True compiles both models with torch.compile. The first steps wait for it; GPUs
            gain most.
        trackers: names that accelerate knows, such as ``tensorboard``; trackers that write files do
            so in OUT/logs.
    """

    steps: int = Field(default=400, ge=0)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=20, ge=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_accumulation: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    losses: LossesSection = LossesSection()
    weighting: Literal["path", "min_snr", "none"] = "path"
    min_snr_gamma: float = Field(default=5.0, gt=0)
    focus: Fraction = Field(default=0.0, ge=0, le=1)
    timesteps: Literal["stratified", "uniform"] = "stratified"
    clip_grad: float = Field(default=1.0, ge=0)
    null_share: Fraction = Field(default=0.1, ge=0, le=1)
    checkpoint_every: int = Field(default=100, ge=1)
    quality_every: int = Field(default=0, ge=0)
    compile: bool = False
    trackers: Words = ()
