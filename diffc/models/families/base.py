"""What a model family says of itself: one class, one small file, found by its name.

A family states the facts of one denoiser class of diffusers: the inputs that a call takes, how to
call it, which channels go together (its groups), which sizes it takes, and what its pipeline gives
it. Everything else (ranking, allocation, surgery, export, engines) asks the family and knows no
class by name.

Family files import no torch at the top: sizes, channels and class names are asked before anything
is loaded. What needs torch is imported inside the method that uses it.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from diffc.errors import InputError
from diffc.input_size import Size, as_pair
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffc.models.groups import Group

TextPlaces: TypeAlias = Mapping[str, tuple[int, int | None]]
"""Input of the denoiser -> its place in what ``encode_prompt`` returns, and the place of its value
for the negative prompt (None: there is no such value)."""

TIMESTEP = TensorSpec("timestep", (), kind="timestep")
"""The noise level, one number a row, counted as the scheduler's timesteps are: 0 to 1000."""
LABELS = TensorSpec("class_labels", (), "int64")
"""The number of a class."""
_LEVELS = 4  # diffusers' own number, where a U-Net's config leaves its levels out


class Family(ABC):
    """A class of diffusers that diffc can compress.

    A subclass must set ``class_name`` and ``component`` and define ``specs``. Everything else has
    a default that holds for a transformer of images with one list of blocks.
    """

    class_name: ClassVar[str]
    """The class, as config.json's ``_class_name`` has it."""
    component: ClassVar[str]
    """The pipeline's folder that holds it: ``unet``, ``transformer``, ``vae``."""
    library: ClassVar[str] = "diffusers"
    """The package that has the class, as model_index.json names it."""
    older_names: ClassVar[Mapping[str, JsonObject]] = {}
    """An older name of the class -> the entries of a config that mean this class by it."""

    is_denoiser: ClassVar[bool] = True
    """False for another part of a pipeline, which is exported beside the denoiser."""
    is_guided: ClassVar[bool] = True
    """Whether the pipeline uses classifier-free guidance."""
    text_places: ClassVar[TextPlaces] = {}
    """The inputs that the pipeline's text encoders give; {} for a model without prompts."""
    text_length_is_pipelines: ClassVar[bool] = False
    """Whether several pipelines use the class, each with its own length of text."""

    squares_only: ClassVar[bool] = False
    """Whether height and width of a sample must be equal."""
    sample_size_is_number: ClassVar[bool] = False
    """Whether the class takes one number as ``sample_size``, and no pair."""
    channel_axis: ClassVar[int] = 0
    """The axis of the channels in a sample without its batch."""
    block_lists: ClassVar[Sequence[str]] = ("transformer_blocks",)
    """The model's lists of blocks whose outputs the feature loss compares; in a model with residual
    blocks of convolutions these are compared in their place."""

    # What a call takes.

    @abstractmethod
    def specs(
        self, config: JsonObject, resolution: Size | None = None, tokens: int | None = None
    ) -> list[TensorSpec]:
        """The inputs of a call.

        Args:
            config: the model's config.json.
            resolution: of the denoiser's own input; None: the config's.
            tokens: the length of the text condition; None: what the class's own pipeline gives.

        Raises:
            InputError: naming the option of the config that diffc does not know.
        """

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """One forward pass.

        Args:
            model: of this class.
            inputs: a value for each of ``specs``, (B, *shape).

        Returns:
            The predicted noise (or v, x_0, velocity), shaped like the sample; where the variance
            is learned it follows in a second half of the channels.
        """
        rest = {name: value for name, value in inputs.items() if name != "sample"}
        output: Tensor = model(inputs["sample"], **rest, return_dict=False)[0]
        return output

    # What can be cut.

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Every group of channels that can be cut.

        Args:
            model: may be on the meta device, with ``inputs``.
            inputs: of one call. Modules that the call never reaches are left whole.
            head_dims: offer the dimensions of attention's heads in place of whole heads, where the
                family can cut them.
        """
        from diffc.models.families.reach import reached_groups

        groups = self.candidate_groups(model, inputs, head_dims)
        return reached_groups(groups, model, inputs, self.call)

    def candidate_groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], head_dims: bool
    ) -> list[Group]:
        """As ``groups``, unreached modules included: feed-forward widths and attentions here."""
        from diffc.models.families.blocks import block_groups

        return block_groups(model, head_dims=head_dims)

    # Sizes.

    def shared_multiple(self, config: JsonObject) -> int | None:
        """What sides must be a multiple of so that one export serves them all.

        Returns:
            None where an export holds its positions, and so serves one size.
        """
        return None

    def multiple(self, config: JsonObject) -> int:
        """What a side must be a multiple of, when the export serves no other: the patch."""
        patch = config.get("patch_size") or 2
        return int(patch[-1] if isinstance(patch, list | tuple) else patch)

    # What the pipeline gives the denoiser.

    def class_count(self, config: JsonObject) -> int | None:
        """How many classes the model knows, without a null class; None for a model of none."""
        return int(config.get("num_class_embeds") or 0) or None

    def null_conditions(self, config: JsonObject) -> dict[str, int]:
        """Input -> the value that the pipeline guides with, where no prompt has to be encoded."""
        return {}

    def encoded_tokens(self, tokens: int) -> int:
        """The length to ask of the text encoder, for ``tokens`` in the denoiser's input."""
        return tokens

    # Latents.

    def latent_shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        """The VAE's latent behind a sample, both without the batch."""
        return sample

    def pack(self, latents: Tensor) -> Tensor:
        """The VAE's latents (N, *latent_shape) as samples (N, *sample)."""
        return latents

    def unpack(self, samples: Tensor) -> Tensor:
        """Samples (N, *sample) as the VAE's latents."""
        return samples

    # The class itself.

    def model_class(self) -> Any:
        """The class, from its library.

        Raises:
            InputError: when the installed library has no such class.
        """
        kind = getattr(import_module(self.library), self.class_name, None)
        if kind is None:
            raise InputError(
                f"the installed {self.library} has no {self.class_name}",
                hint=f"install a version of {self.library} that has the class",
            )
        return kind

    def full_config(self, config: JsonObject) -> JsonDict:
        """``config`` with what it leaves out, as the class fills it in.

        Published configs leave keys out: FLUX.1-dev's has no ``axes_dims_rope``.
        """
        parameters = inspect.signature(self.model_class().__init__).parameters
        defaults = {
            name: parameter.default
            for name, parameter in parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        return defaults | dict(config)

    # Helpers for ``specs``.

    def sample_size(
        self, config: JsonObject, resolution: Size | None, default: int | None = None
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
                f"the config of this {self.class_name} has sample_size {size!r}, which is no size",
                hint="give one with --resolution, such as 64 or 64x96",
            )
        return as_pair(whole[0] if len(whole) == 1 else (whole[0], whole[1]))

    def image_specs(
        self, config: JsonObject, resolution: Size | None, default: int | None = None
    ) -> list[TensorSpec]:
        """sample (in_channels, H, W) and timestep (); the arguments are ``sample_size``'."""
        sides = self.sample_size(config, resolution, default)
        return [TensorSpec("sample", (config["in_channels"], *sides), kind="sample"), TIMESTEP]


def halving_multiple(config: JsonObject) -> int:
    """What a side must be a multiple of for each level of a U-Net to halve it: 8 for four levels.

    A U-Net convolves, and its attention takes any number of positions, so that one export serves
    every size that its levels can halve.
    """
    levels = config.get("block_out_channels")
    return int(2 ** ((len(levels) if levels else _LEVELS) - 1))


def sample_shape(specs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """The shape of the sample among ``specs``, without the batch."""
    return next(spec.shape for spec in specs if spec.kind == "sample")
