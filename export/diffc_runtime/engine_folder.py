"""The engine folder: engine.json, and the files that it names with their hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import DamagedEngine, InputError
from .files import file_digest

NAME = "engine.json"
FORMAT = 1
ENCODER_FOLDER = "encoder"
MASKED_DECODER_FOLDER = "masked-decoder"
LORA_FOLDER = "loras"
LORA_SUFFIX = ".npz"
"""What lies beside an engine in OUT and in a bundle: a VAE's encoder, its decoder with image and
mask, and LoRAs, a file each."""
_KEYS = (
    "target",
    "versions",
    "device",
    "tied_to",
    "built_for",
    "inputs",
    "outputs",
    "profiles",
    "files",
    "source",
    "precision_asked",
    "precision_found",
)


def read_engine_json(folder: Path) -> dict[str, Any]:
    """Return the content of engine.json; no other file is looked at.

    Raises:
        InputError: The file is missing or damaged, cannot be read, or has another format.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        hint = "`diffc build` makes one"
        raise InputError(f"{folder} is not an engine folder: no {NAME}", hint=hint) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if not isinstance(content, dict) or "format" not in content:
        raise InputError(f"{path} is damaged: it names no format")
    if content["format"] != FORMAT:
        raise InputError(f"{path} has format {content['format']}, this diffc reads {FORMAT}")
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise InputError(f"{path} is damaged: it has no '{missing[0]}'")
    return content


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Check every file of an engine folder against its sha256.

    Args:
        folder: The engine folder.
        files: File name -> sha256, as engine.json has them.

    Raises:
        DamagedEngine: Naming the first file that is missing or was altered since the build.
        InputError: Naming the first file that cannot be read.
    """
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedEngine(f"{path} is missing", hint="build the engine again")
        try:
            digest = file_digest(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        if digest != expected:
            hint = "build the engine again"
            raise DamagedEngine(f"{path} was cut or altered since it was built", hint=hint)
