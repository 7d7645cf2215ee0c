"""The environment: read, not guessed; its fingerprint changes with what matters and no more."""

import platform

import pytest

from diffc.measure.environment import Environment, fingerprint, read_environment


@pytest.fixture(scope="module")
def here():
    return read_environment()


def test_it_is_this_machine(here):
    assert here.python == platform.python_version()
    assert here.cores >= 1 and here.memory_bytes > 1 << 28
    assert here.packages["numpy"] == __import__("numpy").__version__
    assert Environment.model_validate_json(here.model_dump_json()) == here


def test_fingerprint_ignores_the_moment(here):
    later = {**here.model_dump(), "load": (9.0, 9.0, 9.0), "clock_mhz": 1.0}
    later["packages"] = {**later["packages"], "diffc": "99"}
    assert fingerprint(later) == here.fingerprint


@pytest.mark.parametrize(
    "change", [{"cpu": "another"}, {"cores": 999}, {"packages": {"onnxruntime": "0.1"}}]
)
def test_fingerprint_changes_with_what_matters(here, change):
    assert fingerprint({**here.model_dump(), **change}) != here.fingerprint
