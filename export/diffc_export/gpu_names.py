"""Compute capabilities by the names of cards: L4 is sm89."""

from __future__ import annotations

import re

_NAMES = {
    "sm70": "V100",
    "sm75": "T4 2060 2070 2080",
    "sm80": "A100 A30 A800",
    "sm86": "A2 A10 A10G A16 A40 A2000 A4000 A4500 A5000 A5500 A6000 3050 3060 3070 3080 3090",
    "sm87": "Orin",
    "sm89": "L4 L20 L40 L40S 4050 4060 4070 4080 4090",
    "sm90": "H20 H100 H200 H800 GH200",
    "sm100": "B100 B200 GB200",
    "sm103": "B300 GB300",
    "sm120": "5050 5060 5070 5080 5090",
}
"""As https://developer.nvidia.com/cuda-gpus lists them; GeForce cards by their number."""

CARDS = {name: sm for sm, names in _NAMES.items() for name in names.split()}
"""Name of a card -> its compute capability, as ``--gpu`` takes it."""

_CAPABILITIES = {name.lower(): sm for name, sm in CARDS.items()}
_AROUND = re.compile(r"^(nvidia|geforce|tesla|quadro|rtx)[ _-]*|[ _-]*(ti|super)$")


def gpu_capability(text: str) -> str:
    """``sm89`` for ``L4``, ``RTX 4090`` or ``8.9``; any other text as it is.

    Args:
        text: A card's name or a compute capability, in upper or lower case.
    """
    name, before = text.strip().lower(), ""
    while name != before:
        name, before = _AROUND.sub("", name), name
    if name in _CAPABILITIES:
        return _CAPABILITIES[name]
    digits = name.removeprefix("sm").removeprefix("_").replace(".", "")
    return f"sm{digits}" if re.fullmatch(r"[1-9]\d{1,2}", digits) else text
