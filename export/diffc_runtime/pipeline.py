"""The whole denoising loop: seed, steps, guidance and conditions in, samples out.

    pipeline = Pipeline(denoise, scheduler_config, (3, 32, 32))
    samples = pipeline.generate(16, steps=50, seed=0)          # (16, 3, 32, 32)
    pipeline(n=4, seed=0).images[0].save("a.png")              # Pillow's images
    pipeline("a red sneaker").images[0].save("a.png")          # with text encoders

Every image has its own stream of random numbers, named by (seed, index): image 7 of seed 0 is the
same alone and among sixteen (noise.py). Buffers are allocated once per batch; a step of the loop
allocates nothing but the array that ``denoise`` returns.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .calls import ImageRequest, image_request
from .checks import (
    LAST_SEED,
    check_guidance,
    check_numbers,
    check_whole_number,
    rows_of_conditions,
)
from .copying import no_pickle, same_engine
from .denoising import denoise_whole
from .errors import BadRequest, UnfitEngine, value_words
from .guided_call import GuidedCall
from .image_inputs import NOISE, DecodeMasked, Encode, Start, begin_with, check_has_image
from .image_sizes import at_size
from .images import is_picture
from .json_types import JsonObject
from .keywords import checked_keywords
from .latent_scale import in_decoders_scale, in_denoisers_scale
from .noise import fill, image_streams
from .output import PipelineOutput, check_output, output_of, pipeline_words
from .packing import pack_latents
from .schedulers import check_whole, first_step, own_name, scheduler
from .schedules import train_steps
from .stepping import Scheduler
from .values import Array as Array
from .values import Denoise as Denoise
from .values import Input as Input

if TYPE_CHECKING:
    from .loras import EngineLoras
    from .prompts import PromptEncoder

MOST_BATCH = 64
"""The largest batch where the engine sets no limit."""


@dataclass(frozen=True)
class PipelineDefaults:
    """What a call has where it says nothing.

    Attributes:
        steps: The number of the sampler's steps; fewer where the model has fewer timesteps.
        guidance: The scale of classifier-free guidance; 1 for none.
        conditions: (seed, n) -> conditions by name, of the images 0 to n - 1 of a seed; None where
            a call has to give them.
    """

    steps: int = 50
    guidance: float = 1.0
    conditions: Callable[[int, int], Mapping[str, object]] | None = None


@dataclass(eq=False, repr=False)
class Pipeline:
    """A denoiser and a scheduler config, ready to make images.

    Args:
        denoise: The denoiser: its inputs by name, each (B, ...), -> its output (B, ...).
        scheduler_config: The config of a diffusers scheduler.
        sample_shape: (C, H, W) of the array that is denoised.
        inputs: The denoiser's inputs; by default ``sample`` and an int64 ``timestep``.
        batches: (smallest, largest) for each range of batch sizes that the engine serves; empty
            for any.
        decode: Latents (B, C, H, W), scaled for the decoder, -> samples (B, 3, H', W').
        latent_scale: The decoder takes ``x / latent_scale + latent_shift``; one number, or one for
            each channel.
        latent_shift: As ``latent_scale``.
        unconditional: The values of the conditions that stand for "none", for guidance.
        scheduler: The sampler for requests that name none; by default the config's own.
        defaults: What a call of the object has where it says nothing.
        runs_on: In words, what runs the denoiser, such as ``ort-cpu fp32``.
        prompts: The text encoders; None for a model without.
        loras: The LoRAs that a call may name; None where the denoiser takes none.
        image_size: (height, width) in pixels; by default that of a sample without a decoder.
        encode: Images (B, C, H, W) -> their latents' mean and deviation; None for pixels.
        decode_masked: ``decode`` of a VAE that takes image and mask beside the latents; None: of
            one that does not.
    """

    denoise: Denoise
    scheduler_config: JsonObject
    sample_shape: Sequence[int]
    _: KW_ONLY
    inputs: Sequence[Input] = ()
    batches: Sequence[tuple[int, int]] = ()
    decode: Callable[[Array], Array] | None = None
    latent_scale: float | Sequence[float] = 1.0
    latent_shift: float | Sequence[float] = 0.0
    unconditional: Mapping[str, object] | None = None
    scheduler: InitVar[str | None] = None
    defaults: PipelineDefaults = PipelineDefaults()
    runs_on: str = ""
    prompts: PromptEncoder | None = None
    image_size: tuple[int, int] | None = None
    loras: EngineLoras | None = None
    encode: Encode | None = None
    decode_masked: DecodeMasked | None = None

    def __post_init__(self, scheduler: str | None) -> None:
        self.scheduler_config = dict(self.scheduler_config)
        self.sample_shape = tuple(int(size) for size in self.sample_shape)
        self.inputs = tuple(self.inputs) or (
            Input("sample", self.sample_shape, kind="sample"),
            Input("timestep", (), "int64", "timestep"),
        )
        pictures = self.decode is None and is_picture(self.sample_shape)
        if self.image_size is None and pictures:
            self.image_size = (self.sample_shape[1], self.sample_shape[2])
        self.batches = sorted(self.batches) or [(1, MOST_BATCH)]
        self.unconditional = dict(self.unconditional or {})
        self.scheduler_name = scheduler or own_name(self.scheduler_config)
        most = train_steps(self.scheduler_config)
        self.defaults = replace(self.defaults, steps=min(self.defaults.steps, most))
        self.sample_input = _only_input(self.inputs, "sample")
        self.timestep_input = _only_input(self.inputs, "timestep")
        self.conditions = tuple(spec for spec in self.inputs if spec.kind == "condition")

    __repr__ = pipeline_words
    __copy__ = __deepcopy__ = same_engine
    __reduce__ = no_pickle

    @property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) in pixels of the images that it makes, the usual size first.

        Where samples stay latents, those of the latents, if the engine was built for several.
        """
        if self.image_size is None:
            return self.sample_input.sizes
        usual = self.sample_shape[-2:]
        factors = [pixels // side for pixels, side in zip(self.image_size, usual, strict=True)]
        others = self.sample_input.sizes[1:]
        return (self.image_size, *((h * factors[0], w * factors[1]) for h, w in others))

    def shape_at(self, size: tuple[int, int] | None) -> tuple[int, ...]:
        """Return the shape of a sample for images of ``size`` in pixels; None: the usual one."""
        shape = tuple(self.sample_shape)
        if size is None or size in self.image_sizes[:1]:
            return shape
        return (*shape[:-2], *self.sample_input.sizes[self.image_sizes.index(size)])

    @property
    def largest_batch(self) -> int:
        """The largest number of rows for one call of the denoiser."""
        return max(high for _, high in self.batches)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int | None = None,
        scheduler: str | None = None,
        output_type: str = "pil",
        **more: object,
    ) -> PipelineOutput:
        """Make images.

        Args:
            prompt: A text, or several; a model without text encoders takes none.
            negative_prompt: What guidance leads away from: one text for all, or one a prompt.
            num_inference_steps: The number of the sampler's steps.
            guidance_scale: Of guidance; 1 or less for none, as in diffusers.
            num_images_per_prompt: The number of images, of each prompt; ``n`` is the same. Without
                prompts it is by default as many as a condition has rows, else 1.
            scheduler: The sampler's name; by default the pipeline's own.
            output_type: ``pil`` for Pillow images, ``np`` for an array (N, H, W, C) in [0, 1].
            **more: ``seed``, or ``generator``, a whole number: image i is image i of this seed, the
                images of the first prompt first. ``image``, a Pillow image, an array (H, W, C) or
                (N, H, W, C) of uint8 or of floats in [0, 1], or a list of images, from which the
                loop begins; ``strength`` above 0 to 1, how much of the loop is done (0.8; 1 with a
                mask); ``mask_image``, white where the image is made anew. ``height`` and ``width``
                in pixels, a size that the engine was built for. ``lora``, the name of
                a LoRA that was adapted to the engine. The model's conditions by name, (N, ...) or
                (...) for all images alike, such as ``class_labels=[3, 7]``; ``unconditional_NAME``
                for guidance.

        Raises:
            BadRequest: An argument is out of range, or a condition is missing.
            UnfitEngine: The engine gave values that are not numbers, or a text encoder cannot be
                opened.
        """
        check_output(output_type, None if self.decode else tuple(self.sample_shape))
        samples = self.sample(
            prompt,
            negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            scheduler=scheduler,
            **more,
        )
        return output_of(samples, output_type)

    def sample(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        **more: object,
    ) -> NDArray[np.float32]:
        """Return what ``__call__`` makes, as samples (N, C, H, W) in [-1, 1].

        Args:
            prompt: See ``__call__``, as for all of them.
            negative_prompt: What guidance leads away from.
            num_inference_steps: The number of the sampler's steps.
            guidance_scale: Of guidance.
            scheduler: The sampler's name.
            **more: Seed, number of images, image and mask, LoRA, conditions by name.
        """
        pipe = self.with_lora(more.pop("lora", None))
        request = image_request(pipe, prompt, negative_prompt, guidance_scale, more)
        steps = pipe.defaults.steps if num_inference_steps is None else num_inference_steps
        return pipe.run(request, steps, scheduler)

    def with_lora(self, name: object) -> Pipeline:
        """Return the pipeline with a LoRA in its denoiser; itself for None.

        Args:
            name: The LoRA's name.

        Raises:
            BadRequest: There is no such LoRA.
            UnfitEngine: The LoRA is of another engine.
        """
        if name is None:
            return self
        if self.loras is None:
            here = f"what runs here ({self.runs_on})"
            raise BadRequest(f"unknown LoRA {value_words(name)}: {here} takes none")
        other = copy.copy(self)
        other.denoise = self.loras.denoise(name)
        return other

    @checked_keywords()
    def generate(
        self,
        n: int,
        steps: int,
        seed: int,
        scheduler: str | None = None,
        guidance: float = 1.0,
        conditions: Mapping[str, object] | None = None,
        unconditional: Mapping[str, object] | None = None,
        first: int = 0,
    ) -> NDArray[np.float32]:
        """Make ``n`` samples, in batches no larger than the engine's largest.

        Args:
            n: The number of images.
            steps: The number of the sampler's steps.
            seed: Image i of the result is image ``first + i`` of this seed.
            scheduler: The sampler's name; by default the pipeline's own.
            guidance: w of classifier-free guidance, u + w (c - u); 1 or less for none.
            conditions: name -> (N, ...), or (...) for all images alike.
            unconditional: As ``conditions``, for u; it replaces the pipeline's own values.
            first: The index of the first image.

        Returns:
            (N, C, H, W) in [-1, 1].

        Raises:
            BadRequest: An argument is out of range.
            UnfitEngine: The engine gave values that are not numbers.
        """
        request = ImageRequest(n, seed, first, guidance, conditions or {}, unconditional or {})
        return self.run(request, steps, scheduler)

    def run(
        self, request: ImageRequest, steps: int, scheduler: str | None = None
    ) -> NDArray[np.float32]:
        """Make the samples of a request; see ``generate``.

        Args:
            request: What is made.
            steps: The number of the sampler's steps.
            scheduler: The sampler's name.
        """
        levels = at_size(self, request.size)
        sampler = levels.sampler(steps, scheduler)
        begun, request = self._begin(request)
        request, n = self._check_request(request), request.n
        if begun.strength < 1:
            sampler = levels._later(sampler, steps, begun.strength)
        per_batch = max(1, self.largest_batch // request.rows)
        parts = [
            self._batch(request, begun, slice(start, min(start + per_batch, n)), sampler)
            for start in range(0, n, per_batch)
        ]
        samples = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if not np.isfinite(samples).all():
            raise UnfitEngine("the engine gave values that are not numbers (NaN or infinity)")
        return samples.astype(np.float32, copy=False)

    def sampler(self, steps: int, name: str | None = None) -> Scheduler:
        """Return the sampler ``name`` over ``steps`` steps; by default the pipeline's own.

        Raises:
            BadRequest: There is no such sampler, or it does not fit the model.
        """
        name = self.scheduler_name if name is None else name
        sampler = scheduler(name, self.scheduler_config, steps)
        check_whole(sampler, np.issubdtype(self.timestep_input.dtype, np.integer))
        return sampler

    # Images that a request begins with ------------------------------------------------------------

    def _begin(self, request: ImageRequest) -> tuple[Start, ImageRequest]:
        """Return what the loop begins with, and the request with the conditions of its images."""
        if request.image is None:
            check_has_image({spec.name for spec in self.conditions}, request.conditions)
            return NOISE, request
        check_numbers(request.n, request.seed)
        begun = begin_with(self, request.image, request.n, request.seed, request.first)
        more = begun.conditions
        return begun, replace(
            request,
            conditions={**request.conditions, **more},
            unconditional={**more, **request.unconditional},
        )

    def _later(self, sampler: Scheduler, steps: int, strength: float) -> Scheduler:
        first = first_step(self.scheduler_config, steps, strength)
        if first >= steps:
            raise BadRequest(
                f"strength {strength:g} of {steps} steps is less than one step: "
                f"take a strength of {math.ceil(1000 / steps) / 1000:g} or more, or more steps"
            )
        return sampler.from_step(first)

    def pack(self, latents: Array) -> Array:
        """Return latents (N, C, h, w) as the denoiser's samples: tokens where it takes those."""
        return latents if len(self.sample_shape) == 3 else pack_latents(latents)

    def scale(self, latents: Array) -> Array:
        """Return what ``in_denoisers_scale`` makes of latents (N, C, h, w)."""
        return in_denoisers_scale(latents, self.latent_scale, self.latent_shift)

    def _batch(self, request: ImageRequest, begun: Start, rows: slice, sampler: Scheduler) -> Array:
        """Make the images ``rows`` of a request: the whole loop."""
        count = rows.stop - rows.start
        streams = image_streams(request.seed, request.first + rows.start, count)
        x = np.empty((count, *self.shape_at(request.size)), np.float32)
        fill(streams, x)
        after = begun.begin(sampler, x, rows)
        call = GuidedCall(self, request, rows.start, rows.stop)
        draw = partial(fill, streams)
        x = denoise_whole(call, sampler, x, draw, model_input=call.sample, after=after)
        return self._decode_latents(x, begun.pixels_of(rows))

    def _decode_latents(self, x: Array, pixels: tuple[Array, Array] | None) -> Array:
        if self.decode is None:
            return x
        latents = in_decoders_scale(x, self.latent_scale, self.latent_shift)
        if pixels is None or self.decode_masked is None:
            return self.decode(latents)
        return self.decode_masked(latents, *pixels)

    def batch_for(self, rows: int) -> int:
        """Return the smallest batch size of the engine that holds ``rows`` rows."""
        return smallest_batch(self.batches, rows)

    # Checks ---------------------------------------------------------------------------------------

    def _check_request(self, request: ImageRequest) -> ImageRequest:
        """Return ``request`` with numbers of the right type and conditions as rows (N, ...)."""
        n = request.n
        check_numbers(n, request.seed)
        check_whole_number("first", request.first, 0, LAST_SEED)
        weight = self._guidance_weight(request.guidance)
        given = rows_of_conditions(self.conditions, request.conditions, n, "condition")
        none: dict[str, Array] = {}
        if weight != 1.0:
            values = {**(self.unconditional or {}), **request.unconditional}
            what = "unconditional value of condition"
            none = rows_of_conditions(self.conditions, values, n, what)
        return replace(
            request,
            n=int(n),
            seed=int(request.seed),
            first=int(request.first),
            guidance=weight,
            conditions=given,
            unconditional=none,
        )

    def _guidance_weight(self, guidance: float) -> float:
        weight = max(1.0, check_guidance(guidance))
        if weight != 1 and not self.conditions:
            raise BadRequest(
                f"guidance {weight:g} needs a model with conditions; this has none (use 1)"
            )
        return weight


Pipeline.__init__ = checked_keywords()(Pipeline.__init__)  # type: ignore[method-assign]


def smallest_batch(batches: Sequence[tuple[int, int]], rows: int) -> int:
    """Return the smallest size in ``batches`` (inclusive ranges) of at least ``rows`` rows.

    Raises:
        BadRequest: No range reaches ``rows``.
    """
    sizes = [max(low, rows) for low, high in batches if high >= rows]
    if not sizes:
        most = max(high for _, high in batches)
        raise BadRequest(f"the engine's largest batch is {most}, not {rows}")
    return min(sizes)


def _only_input(inputs: Sequence[Input], kind: str) -> Input:
    matching = [spec for spec in inputs if spec.kind == kind]
    if len(matching) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise UnfitEngine(
            f"the engine needs one {kind} input, it has {len(matching)} among: {names}"
        )
    return matching[0]
