"""DistillOptions: everything that can be said about a distillation run.

Imports pydantic and no torch: recipes embed it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffc.recipe_words import Words

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
WATCHING = ("checkpoint_every", "trackers")
"""Options that decide nothing of a run's result: another value of them trains nothing anew."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Losses(_Strict):
    """Each term's weight; 0 leaves the term out.

    output: squared error to the dense model's output, in the model's own parametrisation.
    noise: squared error to what a perfect model would say (the training loss of the paper).
    features: squared error to the dense model's block outputs on the kept channels, each block
        divided by the dense model's own mean square (distill/blocks.py says which). On in the
        recipe ``unet2d``, where it was measured (bench/quality).
    """

    output: float = Field(default=1.0, ge=0)
    noise: float = Field(default=0.0, ge=0)
    features: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Losses:
        if not (self.output or self.noise or self.features):
            raise ValueError("distill.losses: every weight is 0, so that nothing would be learned")
        return self


class DistillOptions(_Strict):
    """How to distil.

    batch: samples per optimiser step, over all processes and accumulation together.
    gradient_accumulation: pieces in which each process works its share of a batch.
    warmup: steps of linear warm-up, a quarter of the steps at most; the learning rate then falls as
        a cosine to 0.
    ema_decay: ceiling of the moving average's decay, which starts low (diffusers' warm-up);
        0 for none.
    precision: ``auto`` is bf16 where the device is fast at it, else fp32.
    weighting: over timesteps. ``path``: by how far an error at t moves the sample along the
        sampler's path; ``min_snr``: min(SNR, min_snr_gamma) on the loss in x_0 (Hang et al. 2023);
        ``none``: 1 in the model's own parametrisation.
    focus: the part of the weighting (as an exponent) that is done by drawing t more often where
        the weight is high, instead of weighing the loss.
    timesteps: ``stratified`` spreads each batch evenly over the density of t; ``uniform``
        draws each t independently.
    clip_grad: ceiling of the gradient's norm; 0 for none.
    null_share: share of rows whose conditions are replaced by the null ones, where there are any,
        so that classifier-free guidance is distilled too.
    checkpoint_every: steps between checkpoints.
    quality_every: steps between samples of the student beside the dense model's; 0 for none.
    compile: torch.compile both models. The first steps wait for it; GPUs gain most.
    trackers: names that accelerate knows, such as ``tensorboard``; those that write files do so in
        OUT/logs.
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
    losses: Losses = Losses()
    weighting: Literal["path", "min_snr", "none"] = "path"
    min_snr_gamma: float = Field(default=5.0, gt=0)
    focus: float = Field(default=0.0, ge=0, le=1)
    timesteps: Literal["stratified", "uniform"] = "stratified"
    clip_grad: float = Field(default=1.0, ge=0)
    null_share: float = Field(default=0.1, ge=0, le=1)
    checkpoint_every: int = Field(default=100, ge=1)
    quality_every: int = Field(default=0, ge=0)
    compile: bool = False
    trackers: Words = ()
