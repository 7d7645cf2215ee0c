"""How people may write a recipe's values, as pydantic types that read them.

The validators run before pydantic's own, and leave what they do not know for it to judge.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from diffc.amounts import BYTES, number_and_unit, parts_between_commas
from diffc.input_size import read_size, size_word
from diffc_export.disks import user_path
from diffc_export.gpu_names import gpu_capability
from diffc_runtime.errors import BadRequest
from diffc_runtime.files import no_place
from diffc_runtime.loop import Loop

MOST_SEED = 2**63 - 1
"""The largest seed that PyTorch's generators take."""

Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Shard: TypeAlias = Literal["auto", "on", "off"]


def _as_named_list(value: object, info: ValidationInfo) -> object:
    """What ``_as_list`` gives; an error has the option's name."""
    try:
        return _as_list(value)
    except ValueError as error:
        raise ValueError(f"{info.field_name}: {error}") from None


def _as_list(value: object) -> object:
    """A list of one value, or of the parts of a text such as '1,4', in a list too."""
    if isinstance(value, str):
        return parts_between_commas(value) if value.strip() else []
    if isinstance(value, list | tuple) and any(isinstance(part, str) for part in value):
        return [one for part in value for one in _parts(part)]
    return [value] if isinstance(value, int | float) else value


def _parts(value: object) -> list[object]:
    return list(_as_list(value)) if isinstance(value, str) else [value]  # type: ignore[call-overload]


def _as_gpus(value: object, info: ValidationInfo) -> object:
    """Compute capabilities, of which cards' names may stand for some: sm89 for L4."""
    names = _as_named_list(value, info)
    if not isinstance(names, list | tuple):
        return names
    # YAML and JSON have 8.9 and 4090 as numbers
    return tuple(gpu_capability(name if isinstance(name, str) else str(name)) for name in names)


def as_fraction(value: object) -> object:
    """0.3 for '30%' or '30 %'; what is no such text, as it is."""
    match = re.fullmatch(r"\s*([-+]?[\d.]+)\s*%\s*", value) if isinstance(value, str) else None
    try:
        return value if match is None else float(match[1]) / 100
    except ValueError:
        return value


def _as_sizes(value: object) -> object:
    """Sizes as recipes have them: 64, or '48x64' where height and width differ."""
    try:
        sizes = _as_list(value)
        return tuple(map(_as_size, sizes)) if isinstance(sizes, list | tuple) else sizes
    except ValueError as error:
        raise ValueError(f"resolution: {error}") from None


def _as_size(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is neither a side (64) nor a height x width (64x96)")
    return size_word(read_size(value))


def _as_on_off(value: object) -> object:
    """'on' or 'off' for a boolean, which is how YAML reads these words."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _as_none(value: object) -> object:
    """None for the words none and off (a boolean in YAML)."""
    return None if value is False or value in ("none", "off") else value


def _as_percent(value: object) -> object:
    """'5%' for 0.05, as for every share, and for the number 5."""
    if isinstance(value, str):
        number = _number_or_none(value)
        return value if number is None or number >= 1 else f"{100 * number:g}%"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value if value >= 1 else 100 * value:g}%"


def _number_or_none(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _as_text(value: object) -> object:
    """A number as text: gate/limits.py judges it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if is_number else value


def _as_pairs(value: object, info: ValidationInfo) -> object:
    """{'lpips': '0.1'} for ['lpips=0.1'], which the command line gives.

    Raises:
        ValueError: A part is no name and limit, or two limits are of one name.
    """
    if not isinstance(value, list | tuple):
        return value
    limits: dict[str, object] = {}
    for part in value:
        name, _, number = (word.strip() for word in str(part).partition("="))
        if not name or not number:
            raise ValueError(f"{info.field_name}: {part}: not a limit such as lpips=0.1")
        if name in limits:
            raise ValueError(
                f"{info.field_name}: {name} has two limits, {limits[name]} and {number}"
            )
        limits[name] = number
    return {name: as_fraction(number) for name, number in limits.items()}


def byte_count(text: str) -> float | None:
    """4e9 for '4GB'; None for what is no amount of memory above 0."""
    number, unit = number_and_unit(text) or (0.0, "")
    return number * BYTES[unit] if number > 0 and unit in BYTES else None


def _amount_of(option: str) -> AfterValidator:
    """Check an amount of memory; ``option`` is its name, for the message."""

    def check_amount(text: str) -> str:
        if byte_count(text) is None:
            words = f"{text} is no amount of memory above 0 such as 4GB or 500MB"
            raise ValueError(f"{option}: {words}")
        return text.strip()

    return AfterValidator(check_amount)


_NO_PATHS = ("synthetic", "inception")
"""Words that stand where a path may."""


def _whole_path(value: object, info: ValidationInfo) -> object:
    """The whole path: a run goes on from any folder, and takes no other file of that name there."""
    if not isinstance(value, str | Path) or value in _NO_PATHS:
        return value
    _check_path(str(info.field_name), str(value))
    return str(user_path(value).absolute())


def _check_path(option: str, text: str) -> None:
    reason = no_place(text)
    if reason is not None:
        raise ValueError(f"{option}: {reason}")


def _as_limits_or_off(value: object, info: ValidationInfo) -> object:
    """{'ssim': None} for ['ssim=off'] and {'ssim': 'off'}."""
    pairs = _as_pairs(value, info)
    if not isinstance(pairs, dict):
        return pairs
    return {name: _as_none(number) for name, number in pairs.items()}


def read_lora(text: str) -> tuple[str, float]:
    """("style.safetensors", 0.8) for 'style.safetensors:0.8'; the weight is 1 where none is given.

    Raises:
        ValueError: The part behind the colon is no weight, or that before it no path.
    """
    name, colon, number = text.rpartition(":")
    if not colon or (no_place(text) is None and user_path(text).exists()):
        name, number = text, "1"
    _check_path("lora", name)
    weight = _number_or_none(number)
    if weight is None:
        raise ValueError(f"lora: '{number}' in '{text}' is no weight such as 0.8")
    if not name.strip():
        raise ValueError(f"lora: '{text}' names no file")
    return name, weight


def _as_lora(text: str) -> str:
    """FILE:weight, with the whole path: the file is read again from any folder."""
    name, weight = read_lora(text)
    return f"{user_path(name).absolute()}:{weight!r}"


def _as_loras(value: object) -> object:
    """A list of one LoRA; an empty one for none. A comma may be part of a file's name."""
    texts = [value] if isinstance(value, str) else value
    if texts is False or texts is None or texts == ["none"]:
        return ()
    return texts


def _check_once(texts: tuple[str, ...]) -> tuple[str, ...]:
    names = [read_lora(text)[0] for text in texts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"lora: {twice} is there twice; give it once, with its whole weight")
    return texts


def _as_loop(text: str) -> str:
    """A sampling loop in the spelling of ``Loop``."""
    try:
        return str(Loop.parse(text))
    except BadRequest as error:
        raise ValueError(f"loop: {error}") from None


LoopText = Annotated[str, AfterValidator(_as_loop)]
"""A sampling loop, such as dpm++:8 or euler:20:7.5."""
LoraTexts = Annotated[
    tuple[Annotated[str, AfterValidator(_as_lora)], ...],
    BeforeValidator(_as_loras),
    AfterValidator(_check_once),
]
"""LoRA files, each with its weight: style.safetensors:0.8."""
LoopTexts = Annotated[tuple[LoopText, ...], BeforeValidator(_as_named_list)]
Numbers = Annotated[tuple[int, ...], BeforeValidator(_as_named_list)]
Sizes = Annotated[tuple[int | str, ...], BeforeValidator(_as_sizes)]
Words = Annotated[tuple[str, ...], BeforeValidator(_as_named_list)]
Gpus = Annotated[tuple[str, ...], BeforeValidator(_as_gpus)]
Fraction = Annotated[float, BeforeValidator(as_fraction)]
"""A share from 0 to 1, as 0.3 or 30%. ``Share`` is one of the texts that diffc check compares."""
OnOff = BeforeValidator(_as_on_off)
NoneWord = BeforeValidator(_as_none)
FinishedMemory = Annotated[str, _amount_of("fit")]
"""An amount of memory for the finished network, such as 4GB."""
RunMemory = Annotated[str, _amount_of("memory")]
"""An amount of memory for the stages of a run, such as 24GB."""
Share = Annotated[str, BeforeValidator(_as_percent)]
MetricLimits = Annotated[dict[str, float], BeforeValidator(_as_pairs)]
MetricLimitsOrOff = Annotated[dict[str, float | None], BeforeValidator(_as_limits_or_off)]
Limit = Annotated[str, BeforeValidator(_as_text)]
PathText = Annotated[str, BeforeValidator(_whole_path)]
