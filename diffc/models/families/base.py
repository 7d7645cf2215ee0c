"""What a model family states: one class, one small file, found by its name.

A family states the facts of one denoiser class of diffusers: the inputs of a call, how to call it,
which channels must be cut together (its groups), which sizes it takes, and what its pipeline gives
it. Everything else (ranking, allocation, surgery, export, engines) asks the family, and no other
file knows a class by name.

Family files import no torch at the top: sizes, channels and class names are needed before anything
is loaded. A method that needs torch imports it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from diffc.errors import InputError
from diffc.input_size import Size, as_pair
from diffc.models.config_values import constructor_defaults
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonDict, JsonObject
from diffc_runtime.prompt_plan import EncoderUse, GuidanceInput, Piece, PromptPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffc.models.branches import Branch
    from diffc.models.groups import Group

TextPlaces: TypeAlias = Mapping[str, tuple[int, int | None]]
"""Input of the denoiser -> (index in what ``encode_prompt`` returns, index of the value for the
negative prompt, or None if there is no such value).
"""


@dataclass(frozen=True)
class PipelineTexts:
    """What a family's ``prompt_plan`` may ask of the pipeline.

    Attributes:
        config: The denoiser's config.json.
        encoders: The names of the text encoders.
        masked: Encoder -> True if its own config has it look at the mask of the padding.
        tokenizers: Tokenizer -> the longest text in tokens; None for no limit.
        tokens: The length of the text condition.
        takes: The names of the denoiser's conditions.
        index: The content of model_index.json.
    """

    config: JsonObject
    encoders: Sequence[str]
    masked: Mapping[str, bool]
    tokenizers: Mapping[str, int | None]
    tokens: int
    takes: Sequence[str]
    index: JsonObject

    def masked_plan(
        self, use: EncoderUse, guidance: GuidanceInput | None = None
    ) -> PromptPlan | None:
        """Return the plan of a lone encoder whose mask goes to the denoiser; None for others.

        Args:
            use: How the pipeline uses the encoder, ``text_encoder``.
            guidance: The input that takes the scale of guidance; None for none.
        """
        if list(self.encoders) != ["text_encoder"]:
            return None
        return PromptPlan(
            {"text_encoder": use},
            {
                "encoder_hidden_states": [[Piece("text_encoder", "last")]],
                "encoder_attention_mask": [[Piece("text_encoder", "mask")]],
            },
            prepare="lower",
            guidance=guidance,
        )

    def clip(self, name: str, tokenizer: str) -> EncoderUse:
        """Return how pipelines use a CLIP: at its tokenizer's length, 77 where that has none."""
        return EncoderUse(
            tokenizer,
            self.tokenizers.get(tokenizer) or CLIP_TOKENS,
            masked=self.masked.get(name, False),
        )


@dataclass(frozen=True)
class PipelineCall:
    """How diffusers' pipeline calls the class, where that is not how diffc calls its graph.

    Attributes:
        names: An input's or output's name here -> the pipeline's.
        whole_timestep: True if the timestep is a whole number to the pipeline.
        timestep_factor: The timestep here, divided by the pipeline's.
        patch: The height and width of the patches of the latent that the pipeline packs into
            tokens; 1: none.
        places: Inputs (rows, axes) of the class that the graph computes itself: where each token
            lies.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    whole_timestep: bool = False
    timestep_factor: float = 1.0
    patch: int = 1
    places: Sequence[str] = ()


CLIP_TOKENS = 77
TIMESTEP = TensorSpec("timestep", (), kind="timestep")
"""The noise level, one number a row, counted as the scheduler's timesteps are: 0 to 1000."""
LABELS = TensorSpec("class_labels", (), "int64")
"""The number of a class."""
_LEVELS = 4  # diffusers' own number, where a U-Net's config leaves its levels out


class Family(ABC):
    """A diffusers class that diffc can compress.

    A subclass must set ``class_name`` and ``component`` and define ``specs``. Everything else has
    a default that holds for a transformer of images with one list of blocks.
    """

    class_name: ClassVar[str]
    """The class, as config.json's ``_class_name`` has it."""
    component: ClassVar[str]
    """The pipeline's folder that holds it: ``unet``, ``transformer``, ``vae``."""
    library: ClassVar[str] = "diffusers"
    """The package that has the class, as model_index.json names it."""
    lora_loader: ClassVar[str | None] = None
    """The class of ``diffusers.loaders`` that knows names of LoRA keys from the model's original
    repository; None for none."""
    older_names: ClassVar[Mapping[str, JsonObject]] = {}
    """An older name of the class -> the config entries with which that name means this class."""

    is_denoiser: ClassVar[bool] = True
    """False for another part of a pipeline, which is exported beside the denoiser."""
    is_guided: ClassVar[bool] = True
    """True if the pipeline uses classifier-free guidance."""
    text_places: ClassVar[TextPlaces] = {}
    """The inputs that the pipeline's text encoders give; {} for a model without prompts."""
    text_length_is_pipelines: ClassVar[bool] = False
    """True if several pipelines use the class, each with its own length of text."""

    pipeline_call: ClassVar[PipelineCall] = PipelineCall({"sample": "hidden_states"})
    """How the pipeline calls the class, for files that other libraries read."""

    flow_settings: ClassVar[JsonObject] = {}
    """What the pipeline adds to the config of a flow's scheduler, in the runtime's words."""

    squares_only: ClassVar[bool] = False
    """True if height and width of a sample must be equal."""
    sample_size_is_number: ClassVar[bool] = False
    """True if the class takes one number as ``sample_size``, and no pair."""
    block_lists: ClassVar[Sequence[str]] = ("transformer_blocks",)
    """The model's lists of blocks whose outputs the feature loss compares.

    In a model with residual blocks of convolutions, the outputs of these are compared instead.
    """

    called_apart: ClassVar[Sequence[str]] = ()
    """Modules inside a block that the network calls outside of it too."""

    block_returns: ClassVar[Sequence[str]] = ()
    """The arguments of a block's call that it gives back, changed, for the blocks of
    ``block_lists``; () where blocks cannot be left out."""

    depth_entries: ClassVar[Mapping[str, str]] = {"transformer_blocks": "num_layers"}
    """List of blocks -> the config's entry that says how many there are."""

    block_parts: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Part of a block of the first of ``block_lists`` whose result the block adds to what passes it
    by -> the arguments of the part's call in whose shape it gives something back. Each can be left
    out."""

    # What a call takes.

    @abstractmethod
    def specs(
        self, config: JsonObject, resolution: Size | None = None, tokens: int | None = None
    ) -> list[TensorSpec]:
        """Return the inputs of a call.

        Args:
            config: The content of the model's config.json.
            resolution: The size of the denoiser's own input; None: the config's.
            tokens: The length of the text condition; None: the length in the class's own pipeline.

        Raises:
            InputError: diffc does not support an option of the config; the message names it.
        """

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run one forward pass.

        Args:
            model: A model of this class.
            inputs: A value for each of ``specs``, (B, *shape).

        Returns:
            The predicted noise (or v, x_0, velocity), shaped like the sample. If the variance is
            learned, it follows in a second half of the channels.
        """
        rest = {name: value for name, value in inputs.items() if name != "sample"}
        output: Tensor = model(inputs["sample"], **rest, return_dict=False)[0]
        return output

    def sized_call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run one forward pass so that its graph serves every height and width.

        The default is ``call``; positions of patches are computed anyway (families/positions.py).

        Args:
            model: A model of this class.
            inputs: As in ``call``.
        """
        return self.call(model, inputs)

    def condition_channels(self, config: JsonObject) -> int:
        """Return how many of the config's ``in_channels`` hold a condition that diffc knows.

        They are no part of the sample: ``specs`` lists them as conditions of their own, and
        ``call`` joins them to it.
        """
        return 0

    # What can be cut.

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Return every group of channels that can be cut.

        Args:
            model: A model of this class; it may be on the meta device, with ``inputs``.
            inputs: The inputs of one call. Modules that the call does not reach are left whole.
            head_dims: True offers the dimensions of attention heads instead of whole heads, if the
                family can cut them.
        """
        from diffc.models.families.reach import reached_groups

        groups = self.candidate_groups(model, inputs, head_dims)
        return reached_groups(groups, model, inputs, self.call)

    def candidate_groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], head_dims: bool
    ) -> list[Group]:
        """Return the groups before unreached modules are left out.

        The default: the widths of feed-forwards and the heads of attentions.

        Args:
            model: A model of this class.
            inputs: The inputs of one call.
            head_dims: As in ``groups``.
        """
        from diffc.models.families.blocks import block_groups

        return block_groups(model, head_dims=head_dims)

    def branches(self, model: nn.Module) -> list[Branch]:
        """Every part that can be left out whole: the blocks of ``block_lists``, and their parts.

        Args:
            model: of this class; may be on the meta device.
        """
        from diffc.models.branches import inner_branches, listed_blocks

        parts = inner_branches(model, self.block_lists[:1], self.block_parts)
        if not self.block_returns:
            return parts
        return [*listed_blocks(model, self.block_lists, self.block_returns), *parts]

    # What tells images apart.

    def middle_block(self, model: nn.Module) -> str | None:
        """Return the name of the module in the middle of the network.

        Its activations on nearly clean samples are the features of distances between sets of
        images. The default: the block in the middle of ``block_lists``.

        Args:
            model: A model of this class.

        Returns:
            None where the network has no middle; it then has no such distances.
        """
        from diffc.models.families.middle import listed_middle

        return listed_middle(model, self.block_lists)

    def middle_features(self, output: object) -> Tensor:
        """Return features (B, D) of what ``middle_block`` gives back.

        The default: the mean over all places of hidden states (B, places, D).
        """
        from diffc.models.families.middle import tokens_mean

        return tokens_mean(output)

    # Sizes.

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return the number that heights and widths must be multiples of, so that one export serves
        them.

        Returns:
            None if an export holds its positions, and so serves one size.
        """
        return None

    def largest_side(self, config: JsonObject) -> int | None:
        """Return the largest height and width that the model has positions for; None for any."""
        return None

    def multiple(self, config: JsonObject) -> int:
        """Return the number whose multiples fit, for an export that serves one size; the patch."""
        patch = config.get("patch_size") or 2
        return int(patch[-1] if isinstance(patch, list | tuple) else patch)

    # What the pipeline gives the denoiser.

    def class_count(self, config: JsonObject) -> int | None:
        """Return the number of classes that the model knows, without a null class; None if it has
        none.
        """
        return int(config.get("num_class_embeds") or 0) or None

    def null_conditions(self, config: JsonObject) -> dict[str, int]:
        """Return input -> the null value that the pipeline guides with, if it takes no prompt."""
        return {}

    def condition_values(self, config: JsonObject) -> dict[str, int]:
        """Return input -> how many labels it may be, from 0 on: the classes, and a null class."""
        classes = self.class_count(config)
        null = self.null_conditions(config).get(LABELS.name, -1)
        return {LABELS.name: max(classes, null + 1)} if classes else {}

    def prompt_plan(self, texts: PipelineTexts) -> PromptPlan | None:
        """Return how the pipeline turns a prompt into the denoiser's conditions.

        Args:
            texts: The pipeline's text encoders and tokenizers.

        Returns:
            None where the family takes no prompts.
        """
        return None

    def encoded_tokens(self, tokens: int) -> int:
        """Return the length to request from the text encoder, for ``tokens`` of the input."""
        return tokens

    # The class itself.

    def model_class(self) -> Any:
        """Return the class, from its library.

        Raises:
            InputError: The installed library has no such class.
        """
        kind = getattr(import_module(self.library), self.class_name, None)
        if kind is None:
            raise InputError(
                f"the installed {self.library} has no {self.class_name}",
                hint=f"install a version of {self.library} that has the class",
            )
        return kind

    def full_config(self, config: JsonObject) -> JsonDict:
        """Return ``config`` with the class's defaults for the keys that it leaves out.

        Published configs leave keys out: FLUX.1-dev's has no ``axes_dims_rope``.
        """
        return constructor_defaults(self.model_class()) | dict(config)

    # Helpers for ``specs``.

    def sample_size(
        self, config: JsonObject, resolution: Size | None, default: int | None = None
    ) -> tuple[int, int]:
        """Return (height, width) of a sample: ``resolution``, or else the config's ``sample_size``.

        Args:
            config: The content of the model's config.json.
            resolution: The requested size; None: the config's.
            default: The height and width if the config has no ``sample_size``.

        Raises:
            InputError: The config has no usable size.
        """
        if resolution is not None:
            return as_pair(resolution)
        size = config.get("sample_size") or default
        numbers = [size] if isinstance(size, int) else size
        if not isinstance(numbers, list | tuple) or not all(isinstance(n, int) for n in numbers):
            raise InputError(
                f"the config of this {self.class_name} has sample_size {size!r}, "
                "which is not a size",
                hint="give one with --resolution, such as 64 or 64x96",
            )
        return as_pair(numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1]))

    def image_specs(
        self, config: JsonObject, resolution: Size | None, default: int | None = None
    ) -> list[TensorSpec]:
        """Return the specs sample (in_channels, H, W) and timestep ().

        The arguments are those of ``sample_size``.
        """
        size = self.sample_size(config, resolution, default)
        return [TensorSpec("sample", (config["in_channels"], *size), kind="sample"), TIMESTEP]


def halving_multiple(config: JsonObject) -> int:
    """Return the number whose multiples each level of a U-Net can halve: 8 for four levels.

    A U-Net convolves, and its attention takes any number of positions, so one export serves every
    size that its levels can halve.
    """
    levels = config.get("block_out_channels")
    return int(2 ** ((len(levels) if levels else _LEVELS) - 1))


def sample_shape(specs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Return the shape of the sample in ``specs``, without the batch."""
    return next(spec.shape for spec in specs if spec.kind == "sample")
