"""Limits as people write them, and those that make no sense."""

import pytest

from diffc.errors import RequestError
from diffc.gate.limits import limits_of
from diffc.recipe import CheckSection


def test_the_defaults():
    found = limits_of(CheckSection())
    assert found.slowdown == 0.05 and found.mean_slowdown is None and found.quality == {}
    assert found.memory.allows(104, 100) and not found.memory.allows(106, 100)
    assert found.memory.allows(105.0, 100.0)


@pytest.mark.parametrize(
    ("text", "candidate", "baseline", "allowed"),
    [
        ("+5%", 1.05e9, 1e9, True),
        ("0%", 1e9, 1e9, True),
        ("0%", 1.001e9, 1e9, False),
        ("500MB", 5e8, None, True),
        ("500 mb", 5.1e8, 1e9, False),
        ("1.5GB", 1.4e9, 1e9, True),
        ("5%", 1e9, None, None),
    ],
)
def test_memory(text, candidate, baseline, allowed):
    assert limits_of(CheckSection(max_memory=text)).memory.allows(candidate, baseline) is allowed


def test_build_time_in_seconds_and_minutes():
    assert limits_of(CheckSection(max_build_time="90s")).build_time.value == 90
    assert limits_of(CheckSection(max_build_time="2min")).build_time.value == 120


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_slowdown": "0%"}, "--max-slowdown 0% is not between 0% and 1000%"),
        ({"max_slowdown": "-5%"}, "-5% is not between"),
        ({"max_slowdown": "5"}, "5: not a share such as 0.05 or 5%"),
        ({"max_slowdown": "fast"}, "fast: not a limit"),
        ({"max_slowdown": "5000%"}, "5000% is not between"),
        ({"max_slowdown": "nan%"}, "nan%: not a limit"),
        ({"max_mean_slowdown": "10ms"}, "--max-mean-slowdown 10ms"),
        ({"max_memory": "-5%"}, "--max-memory -5% is not between"),
        ({"max_memory": "0MB"}, "not a limit such as 5% or 500MB"),
        ({"max_memory": "90s"}, "not a limit such as 5% or 500MB"),
        ({"max_build_time": "5MB"}, "not a limit such as 5% or 90s"),
        ({"max_engine_size": ""}, "--max-engine-size"),
        ({"min_ssim": 1.5}, "--min-ssim 1.5 is not between 0 and 1"),
        ({"min_ssim": 0.0}, "is not between 0 and 1"),
        ({"limits": {"ssim": 1.5}}, "--limit ssim=1.5 is not between 0 and 1"),
        ({"limits": {"lpips": 0.0}}, "--limit lpips=0 is not above 0"),
        ({"limits": {"lpisp": 0.1}}, "unknown metric 'lpisp'"),
    ],
)
def test_limits_that_make_no_sense(options, said):
    with pytest.raises(RequestError) as error:
        limits_of(CheckSection(**options))
    assert said in str(error.value)
