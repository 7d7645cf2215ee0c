"""Targets that run here, for the tests that need one."""

import pytest

from diffc_export.targets import target


def needs(name):
    """The target called ``name``; the test is skipped when it cannot run here."""
    status = target(name).status()
    if not status.runnable:
        pytest.skip(f"target '{name}': {status.reason}")
    return target(name)
