"""Where diffc keeps what can be made again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from diffc_export.disks import user_path
from diffc_runtime.errors import RequestError
from diffc_runtime.files import write_text

T = TypeVar("T")


def cache_folder() -> Path:
    """DIFFC_CACHE, or the user's cache folder."""
    import platformdirs

    named = os.environ.get("DIFFC_CACHE")
    if named:
        return user_path(named, "DIFFC_CACHE")
    try:
        return platformdirs.user_cache_path("diffc")
    except RuntimeError:  # a container's user without a home folder
        raise RequestError(
            "there is no home folder, and so no place for the cache",
            hint="set DIFFC_CACHE to a folder that is kept between runs",
        ) from None


def cached_json(kind: str, key: str, compute: Callable[[], T], holds: type[T]) -> T:
    """Return an answer as JSON has it, from the cache where it was computed before.

    Args:
        kind: The folder in the cache.
        key: What decides the answer, as a hash.
        compute: Gives the answer: lists, texts, numbers, and dicts by text. What it raises is not
            kept.
        holds: The type of the answer: a file with something else is damaged.
    """
    path = cache_folder() / kind / f"{key}.json"
    with suppress(OSError, ValueError):  # damaged is as good as none
        answer = json.loads(path.read_text("utf-8"))
        if isinstance(answer, holds):
            return answer
    answer = compute()
    with suppress(OSError):  # a disk that takes no more: the answer is there
        write_text(path, json.dumps(answer) + "\n")
    return answer
