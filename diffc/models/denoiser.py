"""A denoiser with everything that training, sampling and measuring it ask for.

Denoiser        network, family, inputs, noising process and scheduler in one object
denoiser_of     of a network that is there
open_denoiser   of a model's files
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffc.models.diffusion import Process, process_from_scheduler
from diffc.models.families import family
from diffc.models.families.base import Family, sample_shape
from diffc.models.families.examples import example_inputs, meta_inputs
from diffc.models.load import load_denoiser
from diffc_export.specs import Inputs, TensorSpec

if TYPE_CHECKING:
    from diffc.models.branches import Unit
    from diffc.models.groups import Group
    from diffc.models.source import Source


@dataclass(frozen=True)
class Denoiser:
    """A network that predicts noise (or v, x_0, velocity), and what diffc knows of it.

    Attributes:
        model: The network.
        family: The facts of its class.
        specs: What a call takes, without the batch; the sample's size is that of the run.
        process: How clean samples are noised.
        scheduler: The pipeline's scheduler_config.json, which samplers are made from.
    """

    model: nn.Module
    family: Family
    specs: Sequence[TensorSpec]
    process: Process
    scheduler: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The network's config.json; {} where the network carries none."""
        config: Mapping[str, Any] = getattr(self.model, "config", {})
        return config

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of a sample, without the batch."""
        return sample_shape(self.specs)

    @property
    def class_count(self) -> int | None:
        """How many classes the network knows, without a null class; None for none."""
        return self.family.class_count(self.config)

    def call(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """One forward pass: a value (B, *shape) for each of ``specs`` -> (B, *sample)."""
        return self.family.call(self.model, inputs)

    def groups(self) -> list[Group]:
        """Every group of channels that can be cut.

        Stages ask a denoiser on the meta device: what finds groups keeps the trace of a call, and
        with it weights and activations, until garbage is collected.
        """
        is_meta = next(self.model.parameters()).is_meta
        inputs = meta_inputs(self.specs) if is_meta else self.examples()
        return self.family.groups(self.model, inputs)

    def units(self) -> list[Unit]:
        """Everything that can shrink: the groups of channels, then the branches."""
        return [*self.groups(), *self.family.branches(self.model)]

    def examples(self, batch: int = 1, generator: torch.Generator | None = None) -> Inputs:
        """Example values for ``specs``, (batch, *shape), on the CPU."""
        return example_inputs(self.specs, self.config, batch, generator)

    def noised(
        self, clean: Tensor, noise: Tensor, t: Tensor, conditions: Mapping[str, Tensor]
    ) -> Inputs:
        """The inputs of a call on noised samples.

        Args:
            clean: Clean samples (B, *sample).
            noise: Standard normal, of the same shape.
            t: Training timesteps (B,), int64.
            conditions: A value (B, ...) for each condition.
        """
        sample = self.process.noised(clean, noise, t)
        return {"sample": sample, "timestep": self.process.time(t), **conditions}

    def with_model(self, model: nn.Module) -> Denoiser:
        """The same facts with another network of the class, such as a compressed one."""
        return replace(self, model=model)


def denoiser_of(
    model: nn.Module,
    family: Family,
    scheduler: Mapping[str, Any],
    specs: Sequence[TensorSpec] | None = None,
) -> Denoiser:
    """The ``Denoiser`` of a network that is there.

    Args:
        model: The network.
        family: Of the network's class.
        scheduler: The pipeline's scheduler_config.json.
        specs: The inputs of a call; None: those of the network's own config.

    Raises:
        InputError: The scheduler's config describes no process that diffc knows.
    """
    if specs is None:
        specs = family.specs(dict(getattr(model, "config", {})))
    return Denoiser(model, family, specs, process_from_scheduler(scheduler), scheduler)


def open_denoiser(source: Source, specs: Sequence[TensorSpec]) -> Denoiser:
    """The ``Denoiser`` of a model's files: float32, evaluation mode, on the CPU.

    Args:
        source: The model, dense or compressed.
        specs: The inputs of a call, as ``diffc.data.inputs.denoiser_specs`` gives them for a run.

    Raises:
        InputError: The weights or the scheduler's config cannot be used.
    """
    model = load_denoiser(source)
    return denoiser_of(model, family(source.class_name), source.scheduler, specs)
