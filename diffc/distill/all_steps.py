"""The lesson of all noise levels: the student gives what the dense model gives, wherever it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffc.data.clean import CleanSet
from diffc.data.precision import autocast
from diffc.distill.draw import Batch, draw_batch
from diffc.distill.losses import (
    Features,
    Kept,
    feature_loss,
    per_sample,
    split_weights,
    step_loss,
    timestep_weights,
)
from diffc.distill.setup import tensor_bytes, to_device
from diffc.errors import InputError, RequestError
from diffc.models.denoiser import Denoiser
from diffc.models.families.base import Family
from diffc.recipe import DistillSection


@dataclass(frozen=True)
class ModelPair:
    """What distillation trains, and by what.

    Attributes:
        teacher: The dense model.
        student: The compressed network, which is trained in place.
        kept: For the feature loss, each block's kept output channels (losses.py).
    """

    teacher: Denoiser
    student: nn.Module
    kept: Kept | None = None


class AllSteps:
    """Clean samples, noised to levels that are drawn from a density over timesteps."""

    def __init__(
        self, pair: ModelPair, clean: CleanSet, options: DistillSection, seed: int = 0
    ) -> None:
        """Check the request.

        Raises:
            InputError: ``clean`` is empty.
            RequestError: The feature loss is asked for, and ``pair`` names no kept channels.
        """
        if not len(clean):
            raise InputError("there are no samples to distil with")
        self.kept = dict(pair.kept or {}) if options.losses.features else {}
        if options.losses.features and not self.kept:
            raise RequestError("the feature loss needs to know which channels were kept")
        self.teacher, self.clean, self.options, self.seed = pair.teacher, clean, options, seed
        weights = timestep_weights(pair.teacher.process, options)
        self.density, self.weights = split_weights(weights, options.focus)
        self.hooks: list[Features] = []
        self.student: nn.Module | None = None
        self.device, self.dtype = torch.device("cpu"), torch.float32

    @property
    def network(self) -> nn.Module:
        """The dense network."""
        return self.teacher.model

    @property
    def family(self) -> Family:
        """Of the teacher's class, which is the student's too."""
        return self.teacher.family

    def digests(self) -> Iterator[bytes]:
        """The samples and their conditions."""
        for tensor in (self.clean.sample, *self.clean.conditions.values()):
            yield tensor_bytes(tensor)

    def open(self, student: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Catch the outputs of both networks' blocks."""
        self.device, self.dtype, self.student = device, dtype, student
        self.hooks = [Features(self.teacher.model, self.kept), Features(student, self.kept)]

    def begin(self, student: nn.Module) -> list[str]:
        """Training starts from the student as it is."""
        return []

    def draw(self, step: int, rows: range) -> Batch:
        """Samples, noise and timesteps."""
        null = dict(self.clean.null)
        batch = draw_batch(self.clean, self.options, self.density, step, rows, null, self.seed)
        return to_device(batch, self.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The weighted sum of the terms of ``distill.losses``."""
        losses, teacher = self.options.losses, self.teacher
        inputs = teacher.noised(batch.clean, batch.noise, batch.t, batch.conditions)
        wants_teacher = losses.output or losses.features
        with autocast(self.device, self.dtype):
            with torch.no_grad():
                dense = teacher.call(inputs) if wants_teacher else None
            output = teacher.with_model(model).call(inputs)
        caught = [hook.take() for hook in self.hooks]
        features = feature_loss(caught[1], caught[0], self.kept) if self.kept else None
        weights = self.weights.to(batch.t.device)[batch.t]
        loss = step_loss(output, dense, batch, teacher.process, losses, weights, features)
        if model is not self.student and not (losses.output or losses.noise):
            # DistributedDataParallel waits for a gradient of every parameter, those of the end too
            loss = loss + 0.0 * per_sample(output).mean()
        return loss

    def forget(self) -> None:
        """Drop the outputs that were caught."""
        for hook in self.hooks:
            hook.take()

    def close(self) -> None:
        """Take out the hooks."""
        for hook in self.hooks:
            hook.remove()
