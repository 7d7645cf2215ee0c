"""An argument that a public function does not have is refused with the one that was meant."""

from __future__ import annotations

import inspect

import pytest
import torch

import diffc
from diffc.errors import RequestError
from diffc.recipe import Recipe, option_paths
from diffc_runtime import Pipeline, open_bundle, open_engine


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


@pytest.mark.parametrize(
    ("call", "argument", "hint"),
    [
        (diffc.load, {"torch_dtype": torch.float16}, "diffc.load(MODEL).to(torch.float16) casts"),
        (diffc.load, {"dtype": torch.float16}, "diffc.load(MODEL).to(torch.float16) casts"),
        (diffc.load, {"device_map": "cuda"}, 'diffc.load(MODEL).to("cuda") moves it'),
        (diffc.load, {"pickle": True}, "did you mean allow_pickle?"),
        (diffc.load, {"device": "cuda"}, 'diffc.load(MODEL).to("cuda") moves it'),
        (diffc.load, {"variant": "fp16"}, "it takes model, allow_pickle, side, target"),
        (diffc.pipeline, {"torch_dtype": torch.float16}, "did you mean dtype='fp16'?"),
        (diffc.pipeline, {"torch_dtype": torch.bfloat16}, "did you mean dtype='bf16'?"),
        (diffc.pipeline, {"torch_dtype": "float32"}, "did you mean dtype='fp32'?"),
        (diffc.pipeline, {"torch_dtype": "auto"}, "did you mean dtype?"),
        (diffc.pipeline, {"device_map": "cuda"}, "did you mean device?"),
        (diffc.pipeline, {"xyzzyxyzzy": 1}, "it takes out, side, target, device, dtype"),
        (open_bundle, {"thread": 2}, "did you mean threads?"),
        (open_engine, {"thread": 2}, "did you mean threads?"),
        (Pipeline, {"scheduler_name": "ddim"}, "did you mean scheduler?"),
        (Pipeline(None, {}, (1, 8, 8)).generate, {"guidance_scale": 2}, "did you mean guidance?"),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_argument_that_is_meant(call, argument, hint):
    name, *_ = argument
    with pytest.raises(RequestError, match=rf"\(\) takes no '{name}'") as caught:
        call("OUT", **argument)
    assert hint in caught.value.hint and "__" not in str(caught.value)


def test_a_function_with_checked_keywords_is_otherwise_as_it_was():
    assert diffc.load.__name__ == "load" and "compressed" in diffc.load.__doc__
    parameters = ["model", "allow_pickle", "side", "target", "device", "dtype"]
    assert [*inspect.signature(diffc.load).parameters] == parameters
    assert [*inspect.signature(open_bundle).parameters] == ["folder", "threads"]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'out'"):
        diffc.pipeline()
