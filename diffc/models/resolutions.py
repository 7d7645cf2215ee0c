"""The resolutions that a model takes and one export serves, from the config alone, without torch.

The family states them (``shared_multiple``, ``multiple``, ``largest_side``, ``squares_only``): a
U-Net's export serves every height and width that its levels can halve, a transformer's those that
its patches fill and that it has positions for.

A resolution is the size of the denoiser's own input: one number for a square, or (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffc.errors import InputError, RequestError
from diffc.input_size import Size, as_pair, size_word
from diffc.models.config_values import reading_config
from diffc.models.families import families, family
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from diffc.models.families.base import Family

_MOST_AREAS = 16
"""How many times the config's own area a size may have: four times each side."""


def multiple_of(class_name: str, config: JsonObject) -> int | None:
    """Return the number that heights and widths must be multiples of if one export serves several
    sizes.

    Returns:
        8 for a U-Net of four levels, 2 for patches of two; None if an export of the class serves
        one size only.
    """
    return family(class_name).shared_multiple(config)


def check_resolution(class_name: str, config: JsonObject, sizes: Sequence[Size]) -> None:
    """Refuse sizes that the model does not take, or that one export cannot serve.

    Args:
        class_name: The denoiser's class.
        config: Its config.
        sizes: The sizes of ``--resolution``; if empty, the config's own size is checked.

    Raises:
        RequestError: A size of ``--resolution`` does not fit.
        InputError: The config's own size does not fit.
    """
    with reading_config(class_name, config):
        known = family(class_name)
        if not sizes:
            _check_config_size(known, config)
            return
        shared = known.shared_multiple(config)
        if len(sizes) > 1 and shared is None:
            words = ",".join(str(size_word(size)) for size in sizes)
            raise RequestError(
                f"--resolution {words}: a {class_name} serves one resolution, because "
                "its samples do not tell their height and width",
                hint="give one size, and compile once for each; several are for "
                + _several_sizes_classes(),
            )
        if len(sizes) > 1 and known.condition_channels(config):
            words = ",".join(str(size_word(size)) for size in sizes)
            raise RequestError(
                f"--resolution {words}: this {class_name} takes an image beside its sample, and is "
                "exported for one resolution",
                hint="give one size, and compile once for each",
            )
        factor = (shared if len(sizes) > 1 else None) or known.multiple(config)
        for size in sizes:
            _check_size(known, size, factor)
            _check_positions(known, size, config)
            _check_area(known, size, _config_size(config))


def _check_size(known: Family, size: Size, factor: int) -> None:
    """Refuse a size that the class does not take, or that ``factor`` does not divide."""
    height, width = as_pair(size)
    if height != width and known.squares_only:
        raise RequestError(
            f"--resolution {size_word(size)}: a {known.class_name} is compressed for squares only",
            hint="give one size, such as --resolution "
            + str(min(height, width) // factor * factor or factor),
        )
    if height % factor or width % factor:
        raise RequestError(
            f"--resolution {size_word(size)} is not a multiple of {factor}, by which this "
            f"{known.class_name} scales its input down",
            hint=_nearest_hint(size, factor),
        )


def _check_positions(known: Family, size: Size, config: JsonObject) -> None:
    """Refuse a size that has more places than the model has positions."""
    most, sides = known.largest_side(config), as_pair(size)
    if most is None or max(sides) <= most:
        return
    raise RequestError(
        f"--resolution {size_word(size)}: this {known.class_name} has positions for {most}x{most} "
        "at most",
        hint=f"the nearest is {size_word((min(sides[0], most), min(sides[1], most)))}",
    )


def _check_area(known: Family, size: Size, own: Size | None) -> None:
    """Refuse a size that is so far from the config's that the weights know nothing of it."""
    if own is None or not known.is_denoiser:
        return
    (height, width), (own_height, own_width) = as_pair(size), as_pair(own)
    if height * width <= _MOST_AREAS * own_height * own_width:
        return
    raise RequestError(
        f"--resolution {size_word(size)}: this {known.class_name} was trained at "
        f"{own_height}x{own_width}, and knows nothing of images that are "
        f"{height * width / (own_height * own_width):.0f} times as large",
        hint="a resolution is the size of the denoiser's own input: where a VAE decodes latents, "
        "the pixels divided by its factor, such as 64x96 for 512x768",
    )


def _check_config_size(known: Family, config: JsonObject) -> None:
    value = config.get("sample_size")
    if isinstance(value, list | tuple) and known.sample_size_is_number:
        raise InputError(
            f"the config's sample_size is {list(value)}; a {known.class_name} is made for a "
            "square, and its sample_size is one number",
            hint="write one number there"
            + ("" if known.squares_only else ", and give another shape with --resolution"),
        )
    size = _config_size(config)
    if size is None or not known.is_denoiser:  # a VAE's sample_size is the image's
        return
    factor = known.multiple(config)
    if any(number % factor for number in as_pair(size)):
        raise InputError(
            f"the config's sample_size {size_word(size)} is not a multiple of {factor}, by which "
            f"this {known.class_name} scales its input down",
            hint=f"give one with --resolution; {_nearest_hint(size, factor)}",
        )


def _config_size(config: JsonObject) -> Size | None:
    """Return the config's ``sample_size``; None where there is none that is a size."""
    value = config.get("sample_size")
    if isinstance(value, int):
        return value
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    height, width = value
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _several_sizes_classes() -> str:
    """Return the names of the classes whose exports serve several sizes."""
    return ", ".join(one.class_name for one in families() if one.shared_multiple({}) is not None)


def _nearest_hint(size: Size, factor: int) -> str:
    """Return a hint with the multiples of ``factor`` below and above a size."""
    height, width = as_pair(size)
    near: list[Size] = [
        (max(factor, height // factor * factor), max(factor, width // factor * factor)),
        (-(-height // factor) * factor, -(-width // factor) * factor),
    ]
    words = dict.fromkeys(str(size_word(good)) for good in near)
    return f"the nearest that are: {' or '.join(words)}"
