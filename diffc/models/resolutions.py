"""Which resolutions one export can serve, told from the config alone: asked before any long work.

A U-Net convolves, and its attention takes any number of positions, so that one ONNX file serves
every height and width that its levels can halve. A transformer's export holds its positions:
DiT's, PixArt's and SD3's tables, Flux's and Wan's rows of tokens, and Sana's fixed grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffc.errors import RequestError

_HALVING = ("UNet2DModel", "UNet2DConditionModel")
_ANY = ("AutoencoderKL",)  # its decoder, which only doubles
_LEVELS = 4  # diffusers' own, where a config leaves its levels out


def multiple_of(class_name: str, config: Mapping[str, Any]) -> int | None:
    """What a side must be a multiple of: 8 for four levels. None where one export has one size."""
    if class_name in _ANY:
        return 1
    if class_name not in _HALVING:
        return None
    levels = config.get("block_out_channels")
    return int(2 ** ((len(levels) if levels else _LEVELS) - 1))


def check_resolution(class_name: str, config: Mapping[str, Any], sides: Sequence[int]) -> None:
    """Raise RequestError for sides that the model cannot be exported for.

    A single side is checked for UNet2DModel alone: the other families take it as it is.
    """
    factor = multiple_of(class_name, config)
    if len(sides) > 1 and factor is None:
        raise RequestError(
            f"--resolution {','.join(map(str, sides))}: a {class_name} serves one resolution, for "
            "its export holds its positions",
            hint=f"give one side, and compile once for each; several are for "
            f"{', '.join((*_HALVING, *_ANY))}",
        )
    if factor is None or (len(sides) == 1 and class_name != "UNet2DModel"):
        return
    for side in sides:
        if side % factor:
            below = side // factor * factor
            near = " or ".join(str(good) for good in (below, below + factor) if good)
            raise RequestError(
                f"--resolution {side} is not a multiple of {factor}, by which this {class_name} "
                "scales its input down",
                hint=f"the nearest that are: {near}",
            )
