"""What a call of a pipeline asks for, in the words of diffusers' pipelines and in diffc's own.

pipe("a red sneaker", num_images_per_prompt=4, generator=7)
pipe(n=4, seed=7, class_labels=[3, 7, 3, 7])
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import (
    NONE_PREFIX,
    check_guidance,
    check_numbers,
    check_whole_number,
    is_whole_number,
    row_count,
)
from .errors import BadRequest, nearest, value_words
from .image_conditions import IMAGE_CONDITIONS
from .image_inputs import GivenImages, read_given
from .image_sizes import fixed_at_size, wanted_size
from .values import Array

if TYPE_CHECKING:
    from .pipeline import Pipeline

_MOST_EACH = 1024
REQUEST = {
    "seed": "int64",
    "steps": "int32",
    "n": "int32",
    "first": "int64",
    "guidance": "float32",
    "scheduler": "string",
    "height": "int32",
    "width": "int32",
    "lora": "string",
}
"""What a request to a server may have beside prompts and conditions: name -> type of its value."""
PROMPTS = ("prompt", "negative_prompt")
ARGUMENTS = (
    *PROMPTS,
    "num_inference_steps",
    "guidance_scale",
    "num_images_per_prompt",
    "n",
    "seed",
    "generator",
    "scheduler",
    "height",
    "width",
    "image",
    "mask_image",
    "strength",
    "lora",
    "output_type",
)
"""The arguments of a call that are no conditions."""


def served_name(condition: str) -> str:
    """Return the name of a condition in a request to a server, where REQUEST's names are taken."""
    return f"condition_{condition}" if condition in (*REQUEST, *PROMPTS) else condition


@dataclass(frozen=True)
class ImageRequest:
    """What a pipeline makes.

    Attributes:
        n: The number of images.
        seed: Image i is image ``first + i`` of this seed.
        first: The index of the first image.
        guidance: w of classifier-free guidance, u + w (c - u); 1 or less for none.
        conditions: Name -> (N, ...) in the input's dtype once the request is checked.
        unconditional: The same for u.
        image: What the loop begins with; None: noise alone.
        size: (height, width) of the images in pixels; None: the pipeline's usual one.
    """

    n: int
    seed: int
    first: int
    guidance: float
    conditions: Mapping[str, Array | Any]
    unconditional: Mapping[str, Array | Any]
    image: GivenImages | None = None
    size: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        """Rows of the denoiser's batch for each image: guidance doubles them."""
        return 1 if self.guidance == 1.0 else 2


@dataclass(frozen=True)
class ImageCall:
    """A call of a pipeline.

    Attributes:
        prompts: One text for each ``each`` images; None for a model without prompts.
        negatives: As many texts, or None for none.
        each: The number of images of a prompt, or of the whole call without prompts; None where
            the caller does not say.
        seed: The seed.
        conditions: Conditions by name.
        unconditional: Their values for "none".
        image: What the loop begins with; None: noise alone.
        size: (height, width) in pixels; None: the usual one.
    """

    prompts: list[str] | None
    negatives: list[str] | None
    each: int | None
    seed: int
    conditions: Mapping[str, object] = field(default_factory=dict)
    unconditional: Mapping[str, object] = field(default_factory=dict)
    image: GivenImages | None = None
    size: tuple[int, int] | None = None


def read_call(
    pipe: Pipeline, prompt: object, negative_prompt: object, more: Mapping[str, object]
) -> ImageCall:
    """Return what a call of ``pipe`` asks for.

    Args:
        pipe: The pipeline.
        prompt: A text or several; None for none.
        negative_prompt: The same.
        more: The other arguments by name: ``num_images_per_prompt``, ``n``, ``seed``,
            ``generator``, ``image``, ``mask_image``, ``strength``, ``height``, ``width``, and
            conditions.

    Raises:
        BadRequest: An argument is none that the pipeline takes.
    """
    rest = dict(more)
    image = read_given(
        rest.pop("image", None),
        rest.pop("mask_image", None),
        rest.pop("strength", None),
        channels=pipe.sample_shape[0] if pipe.decode is None and pipe.encode is None else 3,
    )
    size = wanted_size(pipe, rest.pop("height", None), rest.pop("width", None), image)
    each = _same(rest, "num_images_per_prompt", "n")
    seed = _same(rest, "generator", "seed")
    if seed is not None and not is_whole_number(seed):
        raise BadRequest(f"generator or seed must be a whole number, not a {type(seed).__name__}")
    prompts = negatives = None
    if prompt is not None:
        prompts = prompt_list("prompt", prompt)
        _check_takes_prompts(pipe)
        negatives = negative_list(negative_prompt, len(prompts))
    elif negative_prompt is not None:
        raise BadRequest("negative_prompt needs a prompt beside it")
    none = {k.removeprefix(NONE_PREFIX): v for k, v in rest.items() if k.startswith(NONE_PREFIX)}
    given = {name: value for name, value in rest.items() if not name.startswith(NONE_PREFIX)}
    _check_known(pipe, given, "")
    _check_known(pipe, none, NONE_PREFIX)
    count = None
    if each is not None:
        count = check_whole_number("n, the number of images,", each, 1, _MOST_EACH)
    number = 0 if seed is None else int(seed)  # type: ignore[call-overload]
    return ImageCall(prompts, negatives, count, number, given, none, image, size)


def _check_known(pipe: Pipeline, given: Mapping[str, object], prefix: str) -> None:
    """Refuse an argument that is neither the call's own nor a condition of the model."""
    conditions = [spec.name for spec in pipe.conditions]
    for name in given:
        if name in conditions:
            continue
        close = nearest(name, [*ARGUMENTS, *conditions])
        takes = f"a call takes {', '.join(ARGUMENTS)}, and the model's conditions"
        hint = f"did you mean {' or '.join(close)}?" if close else takes
        known = ", ".join(conditions) or "none"
        message = f"unknown condition '{prefix}{name}' (the model takes: {known})"
        raise BadRequest(message, hint=hint)


def image_request(
    pipe: Pipeline,
    prompt: object,
    negative_prompt: object,
    scale: float | None,
    more: Mapping[str, object],
) -> ImageRequest:
    """Return what a call of ``pipe`` makes.

    Args:
        pipe: The pipeline.
        prompt: A text or several; None for none.
        negative_prompt: The same.
        scale: The scale of guidance; None for the pipeline's.
        more: As in ``read_call``.

    Raises:
        BadRequest: An argument is none that the pipeline takes, or there is neither a prompt nor
            what the text encoders would make of one.
        UnfitEngine: A tokenizer or a text encoder cannot be opened here.
    """
    call = read_call(pipe, prompt, negative_prompt, more)
    n = image_count(pipe, call)
    texts = conditions_of(pipe, call, n, scale)
    _check_has_prompt(pipe, call, texts.given)
    image = None if call.image is None else _for_each(call, call.image)
    return ImageRequest(n, call.seed, 0, texts.guidance, texts.given, texts.none, image, call.size)


def _for_each(call: ImageCall, image: GivenImages) -> GivenImages:
    """Return images and masks with a row for each image of their prompts; one alone is of all."""
    each, count = call.each or 1, len(call.prompts or ())
    if each == 1 or count < 2:
        return image
    images, masks = image.images, image.masks
    if len(images) == count:
        images = np.repeat(images, each, axis=0)
    if masks is not None and len(masks) == count:
        masks = np.repeat(masks, each, axis=0)
    return replace(image, images=images, masks=masks)


def _check_has_prompt(pipe: Pipeline, call: ImageCall, given: Mapping[str, object]) -> None:
    if pipe.prompts is None or call.prompts is not None:
        return
    taken = {spec.name for spec in pipe.conditions}
    missing = [name for name in pipe.prompts.plan.conditions if name in taken - set(given)]
    if missing:
        raise BadRequest(f"there is no prompt: give one, or {', '.join(missing)} in its place")


def _same(rest: dict[str, object], name: str, other: str) -> object:
    """Take two names of one argument, a whole number, out of ``rest``; the value, or None.

    To Python, True and 1.0 equal 1: of two such values the one that is no whole number is returned,
    for its caller to refuse.
    """
    values = {key: rest.pop(key) for key in (name, other) if rest.get(key) is not None}
    rest.pop(name, None)
    rest.pop(other, None)
    if len(values) == 2 and _differ(values[name], values[other]):
        raise BadRequest(f"{name} and {other} mean the same: give one of them")
    return next(iter(sorted(values.values(), key=is_whole_number)), None)


def _differ(one: object, other: object) -> bool:
    try:
        return bool(one != other)
    except Exception:  # arrays and tensors compare number by number
        return True


def _check_takes_prompts(pipe: Pipeline) -> None:
    if pipe.prompts is not None:
        return
    names = ", ".join(spec.name for spec in pipe.conditions)
    if not names:
        raise BadRequest("prompt: this model takes none, it makes images from noise alone")
    raise BadRequest(
        f"prompt: there are no text encoders here; the model takes {names}, "
        "and a pipeline's text encoders come along where diffc compile exports them"
    )


def image_count(pipe: Pipeline, call: ImageCall) -> int:
    """Return how many images a call makes.

    Without prompts and ``n`` it is as many as there are images or masks to begin with, or as a
    condition has rows, else 1.
    """
    if call.prompts is not None:
        return len(call.prompts) * (call.each or 1)
    if call.each is not None:
        return call.each
    if call.image is not None and call.image.count > 1:
        return call.image.count
    given = call.conditions
    rows = (row_count(s, given[s.name]) for s in pipe.conditions if s.name in given)
    return max(rows, default=1)


@dataclass(frozen=True)
class CallConditions:
    """The conditions of a call's images, and the scale of guidance.

    Attributes:
        given: Name -> (N, ...) or (...).
        none: The same for "none"; the pipeline's own values hold for what is not in it.
        guidance: The scale of classifier-free guidance; 1 for none.
    """

    given: Mapping[str, object]
    none: Mapping[str, object]
    guidance: float


def conditions_of(pipe: Pipeline, call: ImageCall, n: int, scale: float | None) -> CallConditions:
    """Return the conditions of a call's ``n`` images.

    What the caller gives counts before what a prompt gives, and that before the pipeline's own.

    Args:
        pipe: The pipeline.
        call: The call.
        n: The number of images.
        scale: The caller's scale of guidance; None for the pipeline's. Less than 1 is none, as to
            diffusers' pipelines: those of Turbo models are called with 0.
    """
    check_numbers(n, call.seed)
    scale = None if scale is None else check_guidance(scale)
    given = dict[str, object]()
    none = dict(call.unconditional)
    guidance = max(1.0, pipe.defaults.guidance if scale is None else scale)
    if call.prompts is not None:
        assert pipe.prompts is not None
        taken = {spec.name for spec in pipe.conditions}
        fixed = fixed_at_size(pipe.prompts.fixed, call.size)
        given = {name: value for name, value in fixed.items() if name in taken}
        if pipe.prompts.plan.guidance is not None:
            guidance = 1.0
        of_prompts, of_none = _prompt_conditions(pipe, call, guidance != 1.0)
        given |= of_prompts
        none = {**of_none, **none}
    guidance = _give_scale(pipe, given, scale, guidance)
    given |= call.conditions
    given |= _usual_conditions(pipe, call, n, given)
    known = {**(pipe.unconditional or {}), **none}
    if known:  # a condition without a value for "none" stays what it is
        none = {**{name: value for name, value in given.items() if name not in known}, **none}
    return CallConditions(given, none, guidance)


def _usual_conditions(
    pipe: Pipeline, call: ImageCall, n: int, given: Mapping[str, object]
) -> Mapping[str, object]:
    """Return the pipeline's own values of the conditions that a call leaves open.

    A prompt and an image stand for themselves: no image of the pipeline's own lies beside them.

    Args:
        pipe: The pipeline.
        call: The call.
        n: The number of images.
        given: What the call says.
    """
    of_call = {*given, *(IMAGE_CONDITIONS if call.prompts or call.image else ())}
    left_open = [spec.name for spec in pipe.conditions if spec.name not in of_call]
    if pipe.defaults.conditions is None or not left_open:
        return {}
    usual = pipe.defaults.conditions(call.seed, n)
    usual = {name: usual[name] for name in left_open if name in usual}
    is_usual_size = call.size is None or call.size == pipe.image_sizes[0]
    return usual if is_usual_size else fixed_at_size(usual, call.size)


def _give_scale(
    pipe: Pipeline, given: dict[str, object], scale: float | None, guidance: float
) -> float:
    """Put the scale into the input that takes it, where there is one; guidance is then 1."""
    taken = None if pipe.prompts is None else pipe.prompts.plan.guidance
    if taken is None:
        return guidance
    if scale is not None:
        from .prompts import guidance_value

        given[taken.name] = guidance_value(taken, scale)
    return 1.0


def _prompt_conditions(
    pipe: Pipeline, call: ImageCall, guided: bool
) -> tuple[dict[str, Array], dict[str, object]]:
    """Return the conditions of the prompts and of the negative ones, a row for each image."""
    encoder, each = pipe.prompts, call.each or 1
    assert encoder is not None and call.prompts is not None
    rows = _repeated(encoder.encode(call.prompts), each)
    if not guided:
        if call.negatives is not None:
            warnings.warn("negative_prompt has no effect without guidance", stacklevel=5)
        return rows, {}
    if call.negatives is None:
        none = encoder.none(len(call.prompts))
    else:
        none = encoder.encode(call.negatives, negative=True)
    return rows, {**fixed_at_size(encoder.fixed_null, call.size), **_repeated(none, each)}


def _repeated(rows: Mapping[str, Array], each: int) -> dict[str, Array]:
    return {name: np.repeat(value, each, axis=0) for name, value in rows.items()}


def prompt_list(what: str, given: object) -> list[str]:
    """Return one text, or several, as a list.

    Args:
        what: The argument's name, for errors.
        given: What the caller gave.

    Raises:
        BadRequest: It is no text and no list of texts, or an empty list.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise BadRequest(f"{what} is a text or a list of texts, not {value_words(given)}")
    if not texts:
        raise BadRequest(f"{what} is an empty list: give a text, or several")
    return list(texts)


def negative_list(given: object, count: int) -> list[str] | None:
    """Return the negative prompts of ``count`` prompts: one for all, or as many.

    Raises:
        BadRequest: There are as many of neither.
    """
    if given is None:
        return None
    texts = prompt_list("negative_prompt", given)
    if len(texts) not in (1, count) or (
        len(texts) == 1 and not isinstance(given, str) and count > 1
    ):
        raise BadRequest(
            f"negative_prompt has {len(texts)} texts and prompt {count}: give one text, or as many"
        )
    return texts * count if len(texts) == 1 else texts
