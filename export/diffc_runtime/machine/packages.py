"""Versions of installed distributions, from their metadata; nothing is imported."""

from __future__ import annotations

from functools import cache

TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
TENSORRT_RTX = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx")
_DISTRIBUTIONS = {"tensorrt": TENSORRT, "tensorrt_rtx": TENSORRT_RTX}
"""Module -> the distributions that may hold it, where they are not named after it."""


@cache
def version(package: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    from importlib import metadata  # a third of this package's own import time

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def first_version(*packages: str) -> tuple[str, str] | None:
    """Return (distribution, version) of the first one that is installed, or None."""
    versions = ((name, version(name)) for name in packages)
    return next(((name, number) for name, number in versions if number), None)


def module_version(module: str) -> str | None:
    """Return the version of the distribution that holds ``module``; None if none is installed."""
    installed = first_version(*_DISTRIBUTIONS.get(module, (module,)))
    return installed[1] if installed else None
