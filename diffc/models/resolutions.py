"""Which resolutions a model takes and one export serves, told from the config alone, without torch.

A U-Net convolves, and its attention takes any number of positions, so that one ONNX file serves
every height and width that its levels can halve. A transformer's export holds its positions:
DiT's, PixArt's and SD3's tables, Flux's and Wan's rows of tokens, and Sana's fixed grid.

A resolution is of the denoiser's own input: a side, or (height, width).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from diffc.errors import InputError, RequestError
from diffc.models.config_values import reading_config

Side: TypeAlias = int | tuple[int, int]
"""The side of a square, or (height, width)."""

_HALVING = ("UNet2DModel", "UNet2DConditionModel")
_ANY = ("AutoencoderKL",)  # its decoder, which only doubles
_LEVELS = 4  # diffusers' own, where a config leaves its levels out
_PADS = "UNet2DConditionModel"  # its own forward pass evens out what its levels cannot halve
_SQUARE = ("DiTTransformer2DModel", "FluxTransformer2DModel")
"""DiT's class unfolds its tokens to a square; of Flux's tokens nothing says another shape."""
_ONE_SIDE = (
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "SD3Transformer2DModel",
    "SanaTransformer2DModel",
)
"""Classes whose constructors take a number as ``sample_size``, and no pair."""
_PATCH = {"FluxTransformer2DModel": 2, "WanTransformer3DModel": 2, "SanaTransformer2DModel": 1}
"""diffusers' own patch, where a config leaves it out; 2 for the others. Flux's pipeline packs by 2
whatever its config says."""


def as_pair(side: Side) -> tuple[int, int]:
    """(height, width)."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def as_word(side: Side) -> int | str:
    """A side as recipes and messages have it: 64, or '64x96'."""
    height, width = as_pair(side)
    return height if height == width else f"{height}x{width}"


def read_side(word: int | str | Sequence[int]) -> Side:
    """The side that a recipe or a flag gives: 64, '64', '64x96'. ValueError for anything else."""
    if isinstance(word, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[xX]\s*(\d+)\s*)?", word)
        if match is None:
            raise ValueError(f"{word!r} is no side such as 64, and no height x width such as 64x96")
        word = (int(match[1]), int(match[2] or match[1]))
    height, width = (word, word) if isinstance(word, int) else (word[0], word[1])
    return height if height == width else (height, width)


def multiple_of(class_name: str, config: Mapping[str, Any]) -> int | None:
    """What a side must be a multiple of where one export serves several; None where it serves one.

    8 for four levels.
    """
    if class_name in _ANY:
        return 1
    if class_name not in _HALVING:
        return None
    levels = config.get("block_out_channels")
    return int(2 ** ((len(levels) if levels else _LEVELS) - 1))


def check_resolution(class_name: str, config: Mapping[str, Any], sides: Sequence[Side]) -> None:
    """Refuse sides that the model does not take, or that one export cannot serve.

    Args:
        sides: of ``--resolution``; without one, the config's own size is checked.

    Raises:
        RequestError: for the sides of ``--resolution``.
        InputError: for the config's own.
    """
    with reading_config(class_name, config):
        _check_sides(class_name, config, sides)


def _check_sides(class_name: str, config: Mapping[str, Any], sides: Sequence[Side]) -> None:
    if not sides:
        _check_config_size(class_name, config)
        return
    if len(sides) > 1 and multiple_of(class_name, config) is None:
        words = ",".join(str(as_word(side)) for side in sides)
        raise RequestError(
            f"--resolution {words}: a {class_name} serves one resolution, for "
            "its export holds its positions",
            hint=f"give one side, and compile once for each; several are for "
            f"{', '.join((*_HALVING, *_ANY))}",
        )
    factor = _factor(class_name, config, one=len(sides) == 1)
    for side in sides:
        height, width = as_pair(side)
        if height != width and class_name in _SQUARE:
            raise RequestError(
                f"--resolution {as_word(side)}: a {class_name} is compressed for squares only",
                hint="give one side, such as --resolution "
                + str(min(height, width) // factor * factor or factor),
            )
        if height % factor or width % factor:
            raise RequestError(
                f"--resolution {as_word(side)} is not a multiple of {factor}, by which this "
                f"{class_name} scales its input down",
                hint=_nearest(side, factor),
            )


def _check_config_size(class_name: str, config: Mapping[str, Any]) -> None:
    size = config.get("sample_size")
    if isinstance(size, list | tuple) and class_name in _ONE_SIDE:
        raise InputError(
            f"the config's sample_size is {list(size)}; a {class_name} is made for a square, and "
            "its sample_size is one number",
            hint="write one number there"
            + ("" if class_name in _SQUARE else ", and give another shape with --resolution"),
        )
    side: Side | None = size if isinstance(size, int) else None
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(s, int) for s in size):
        side = (size[0], size[1])
    if side is None or class_name in _ANY:  # a VAE's is of its images
        return
    factor = _factor(class_name, config, one=True)
    if any(value % factor for value in as_pair(side)):
        raise InputError(
            f"the config's sample_size {as_word(side)} is not a multiple of {factor}, by which "
            f"this {class_name} scales its input down",
            hint=f"give one with --resolution; {_nearest(side, factor)}",
        )


def _factor(class_name: str, config: Mapping[str, Any], *, one: bool) -> int:
    """What a side must be a multiple of. one: the export serves this side alone."""
    if one and class_name == _PADS:
        return 1
    several = multiple_of(class_name, config)
    if several is not None:
        return several
    patch = config.get("patch_size") or _PATCH.get(class_name, 2)
    if class_name == "FluxTransformer2DModel":
        return 2
    return int(patch[-1] if isinstance(patch, list | tuple) else patch)


def _nearest(side: Side, factor: int) -> str:
    """The sides below and above that are multiples of ``factor``."""
    height, width = as_pair(side)
    near: list[Side] = [
        (max(factor, height // factor * factor), max(factor, width // factor * factor)),
        (-(-height // factor) * factor, -(-width // factor) * factor),
    ]
    words = dict.fromkeys(str(as_word(good)) for good in near)
    return f"the nearest that are: {' or '.join(words)}"
