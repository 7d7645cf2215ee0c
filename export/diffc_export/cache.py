"""Where diffc keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

from diffc_export.disks import user_path
from diffc_runtime.errors import RequestError


def cache_folder() -> Path:
    """DIFFC_CACHE, or the user's cache folder."""
    import platformdirs

    named = os.environ.get("DIFFC_CACHE")
    if named:
        return user_path(named)
    try:
        return platformdirs.user_cache_path("diffc")
    except RuntimeError:  # a container's user without a home folder
        raise RequestError(
            "there is no home folder, and so no place for the cache",
            hint="set DIFFC_CACHE to a folder that is kept between runs",
        ) from None
