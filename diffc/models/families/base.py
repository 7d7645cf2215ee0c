"""What diffc asks of a model family: one narrow protocol, one small file per family.

A family knows four things of its denoiser class: the inputs a call takes, how to call it, how big
an input is at a resolution, and which channels go together (its groups). Everything else (ranking,
allocation, surgery, export, engines) works on these and knows no family.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from diffc_export.specs import TensorSpec
from torch import Tensor, nn

from diffc.errors import InputError
from diffc.models.groups import Group
from diffc.models.resolutions import Side, as_pair


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


def sample_sides(
    class_name: str, config: Mapping[str, Any], resolution: Side | None, default: int | None = None
) -> tuple[int, int]:
    """(height, width) of a sample: ``resolution``, or else the config's ``sample_size``.

    Args:
        default: the side where the config has no ``sample_size``.

    Raises:
        InputError: when the config has no size that can be used.
    """
    if resolution is not None:
        return as_pair(resolution)
    size = config.get("sample_size") or default
    whole = [size] if isinstance(size, int) else size
    if not isinstance(whole, list | tuple) or not all(isinstance(side, int) for side in whole):
        raise InputError(
            f"the config of this {class_name} has sample_size {size!r}, which is no size",
            hint="give one with --resolution, such as 64 or 64x96",
        )
    return as_pair(whole[0] if len(whole) == 1 else (whole[0], whole[1]))


def sample_shape(specs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """The shape of the sample among ``specs``, without the batch."""
    return next(spec.shape for spec in specs if spec.kind == "sample")


class Family(Protocol):
    """A denoiser class that diffc can compress."""

    class_name: str
    """The diffusers class, as in config.json's ``_class_name``."""

    component: str
    """The pipeline's folder that holds it: ``unet``, ``transformer``, ``vae``."""

    def specs(
        self,
        config: Mapping[str, Any],
        resolution: Side | None = None,
        tokens: int | None = None,
    ) -> list[TensorSpec]:
        """The inputs of a call.

        Args:
            resolution: of the denoiser's own input; None: the config's.
            tokens: the length of the text condition; None: what the class's own pipeline gives.

        Raises:
            InputError: naming the option of the config that diffc does not know.
        """
        ...

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """One forward pass: the predicted noise (or v, x_0, velocity), shaped like the sample."""
        ...

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Every group of channels that can be cut; model and inputs may be on the meta device.

        Modules that a call with ``inputs`` never reaches are left whole.

        head_dims: offer the dimensions of attention's heads in place of whole heads, where the
            family can cut them.
        """
        ...
