"""What diffc asks of a model family: one narrow protocol, one small file per family.

A family knows four things of its denoiser class: the inputs a call takes, how to call it, how big
an input is at a resolution, and which channels go together (its groups). Everything else (ranking,
allocation, surgery, export, engines) works on these and knows no family.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from diffc.models.groups import Group

Inputs = dict[str, Tensor]
"""The denoiser's inputs by name, ``sample`` and ``timestep`` first, in the order of its call."""


@dataclass(frozen=True)
class TensorSpec:
    """One input: its name, its shape without the batch, and its dtype in the exported graph.

    kind: ``sample``, ``timestep`` or ``condition``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: str = "condition"


def with_defaults(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with what it leaves out, as the diffusers class fills it in.

    Published configs leave keys out: FLUX.1-dev's has no ``axes_dims_rope``.
    """
    import diffusers

    parameters = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return defaults | dict(config)


class Family(Protocol):
    """A denoiser class that diffc can compress."""

    class_name: str
    """The diffusers class, as in config.json's ``_class_name``."""

    component: str
    """The pipeline's folder that holds it: ``unet``, ``transformer``, ``vae``."""

    def specs(self, config: Mapping[str, Any], resolution: int | None = None) -> list[TensorSpec]:
        """The inputs at ``resolution`` (of the denoiser's own input; None: the config's)."""
        ...

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """One forward pass: the predicted noise (or v, x_0, velocity), shaped like the sample."""
        ...

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Every group of channels that can be cut; model and inputs may be on the meta device.

        head_dims: offer the dimensions of attention's heads in place of whole heads, where the
            family can cut them.
        """
        ...
