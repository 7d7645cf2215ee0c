"""diffc.compile: an argument that it does not have is refused with the option that was meant."""

from __future__ import annotations

import pytest

import diffc
from diffc.errors import RequestError
from diffc.recipe import Recipe, option_paths


@pytest.mark.parametrize(
    ("argument", "message", "hint"),
    [
        ({"prompts": "a.txt"}, "takes no 'prompts' of its own", "{'data': {'prompts': 'a.txt'}}"),
        ({"precision": "fp16"}, "takes no 'precision'", "{'build': {'precision': 'fp16'}}"),
        ({"gpu": ["sm89"]}, "takes no 'gpu'", "options={'build': {'gpu': ...}}"),
        ({"method": "l1"}, "takes no 'method'", "{'prune': {'importance': {'method': 'l1'}}}"),
        ({"distill_steps": 9}, "takes no 'distill_steps'", "options={'distill': {'steps': 9}}?"),
        ({"batch": 2}, "takes no 'batch'", "options={'build': {'batch': 2}}"),
        ({"precison": "fp16"}, "takes no 'precison'", "{'build': {'precision': 'fp16'}}"),
        ({"rato": 0.3}, "takes no 'rato'", "did you mean ratio?"),
        ({"loop": "ddim:4"}, "takes no 'loop'", "options={'loops': 'ddim:4'}?"),
        ({"targets": "trt"}, "takes no 'targets'", "did you mean target?"),
        ({"forced": True}, "takes no 'forced'", "did you mean force?"),
        ({"xyzzyxyzzy": 1}, "takes no 'xyzzyxyzzy'", "it takes model, ratio, target, out"),
    ],
)
def test_the_option_that_was_meant_is_named(argument, message, hint):
    with pytest.raises(RequestError) as caught:
        diffc.compile("demo", **argument)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_an_option_of_several_sections_is_named_in_each():
    with pytest.raises(RequestError, match="takes no 'steps' of its own") as caught:
        diffc.compile("demo", steps=10)
    sections = [path.partition(".")[0] for path in option_paths(Recipe) if path.endswith(".steps")]
    assert "distill" in sections
    for section in sections[:3]:
        assert f"options={{'{section}': {{'steps': 10}}}}" in caught.value.hint


def test_paths_are_those_of_the_recipe():
    paths = option_paths(Recipe)
    assert {"seed", "prune.ratio", "prune.importance.method", "distill.losses.output"} <= {*paths}
    assert len(paths) == len({*paths})
