"""One call on the meta device before any work: what a class does not take is one line."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch
from support.family_cases import CASES, case
from support.pipelines import edit_json, save_ddpm, save_sd
from support.runs import compile_quickly, refusal
from typer.testing import CliRunner

from diffc.errors import InputError
from diffc.models.cut import skeleton
from diffc.models.dry_run import dry_call, dry_run
from diffc.models.families import family
from diffc.models.families.reach import idle_modules, trace_call
from diffc.models.source import find_source
from diffc.prune.planning import cost_of


@pytest.mark.parametrize(
    "config",
    [
        {"norm_num_groups": 5},
        {"block_out_channels": [16, 32, 64]},
        {"act_fn": "nothing"},
        {"down_block_types": ["NoBlock2D", "DownBlock2D"]},
        {"layers_per_block": "two"},
        {"attention_head_dim": 0},
    ],
)
def test_a_config_that_the_constructor_refuses_is_one_line_everywhere(tmp_path, config):
    model = save_ddpm(tmp_path / "m")
    edit_json(model / "unet" / "config.json", **config)
    error = refusal(model, tmp_path / "o")
    assert "cannot be made from its config" in str(error)
    with pytest.raises(InputError, match="cannot be made from its config"):
        cost_of(find_source(model))


@pytest.mark.parametrize("verb", ["plan", "inspect"])
def test_plan_and_inspect_say_the_same_line(tmp_path, verb):
    from diffc.cli.app import app

    model = save_ddpm(tmp_path / "m")
    edit_json(model / "unet" / "config.json", norm_num_groups=5)
    result = CliRunner().invoke(app, [verb, str(model)])
    assert result.exit_code != 0
    said = result.output or str(result.exception)
    assert "cannot be made from its config" in said and "Traceback" not in said


def test_a_call_that_fails_names_the_class_and_the_shapes():
    unet = family("UNet2DConditionModel")
    _, config, _ = CASES["sd15"]
    model = skeleton("UNet2DConditionModel", config)
    specs = [
        replace(spec, shape=(77, 40)) if spec.name == "encoder_hidden_states" else spec
        for spec in unet.specs(config)
    ]
    with pytest.raises(InputError) as caught:
        dry_call(model, unet, specs)
    said = str(caught.value)
    assert "UNet2DConditionModel" in said and "encoder_hidden_states (77, 40)" in said
    assert "\n" not in said and len(said) < 300 and caught.value.hint


def test_an_output_of_another_size_is_refused():
    unet = family("UNet2DModel")
    _, config, _ = CASES["unet2d"]

    class Halving:
        class_name = "UNet2DModel"

        def call(self, model, inputs):
            return unet.call(model, inputs)[..., ::2]

    with pytest.raises(InputError, match=r"turns a sample \(3, 8, 8\) into \(3, 8, 4\)"):
        dry_call(skeleton("UNet2DModel", config), Halving(), unet.specs(config))


def test_an_error_without_words_is_named_by_its_kind():
    unet = family("UNet2DModel")
    _, config, _ = CASES["unet2d"]

    class Silent:
        class_name = "UNet2DModel"

        def call(self, model, inputs):
            raise AssertionError

    with pytest.raises(InputError, match=r"(?m)AssertionError$"):
        dry_call(skeleton("UNet2DModel", config), Silent(), unet.specs(config))


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_family_passes_and_uses_each_of_its_inputs(name):
    tiny = case(name)
    notes = dry_call(skeleton(tiny.family.class_name, tiny.config), tiny.family, tiny.specs)
    assert notes == (
        ["left whole, since no call reaches them: encoder, quant_conv"] if name == "vae" else []
    )


@pytest.mark.slow
def test_a_compressed_folder_is_tried_as_it_is(tmp_path):
    compile_quickly(save_ddpm(tmp_path / "m"), tmp_path / "o", "prune", ratio=0.5)
    pruned = find_source(tmp_path / "o" / "pruned")
    assert dry_run(pruned) == []
    path = pruned.folder / "pruning.json"
    value = json.loads(path.read_text())
    value["attributes"] = {"mid_block.attentions.0": {"heads": 7}}
    path.unlink()  # it is a link into the cache
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="this UNet2DModel does not take sample"):
        dry_run(pruned)


def test_reach_follows_values_and_not_shapes():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, a, b, c):
            added = torch.zeros_like(b)
            added.add_(c[:, :1])
            return self.used(a) + added

    inputs = {name: torch.empty(2, 4) for name in "abc"}
    result = trace_call(
        Model(), inputs, lambda model, given: model(given["a"], given["b"], given["c"])
    )
    assert result.inputs == {"a", "c"} and result.output.device.type == "meta"
    assert idle_modules(Model(), result.modules) == ["idle"]


def test_real_weights_are_neither_copied_nor_changed():
    tiny = case("unet2d")
    before = {name: value.data_ptr() for name, value in tiny.model.state_dict().items()}
    trace_call(tiny.model, tiny.inputs, tiny.family.call)
    assert before == {name: value.data_ptr() for name, value in tiny.model.state_dict().items()}
    assert not any(module._forward_pre_hooks for module in tiny.model.modules())


def test_the_dry_run_of_a_small_pipeline_is_quick(tmp_path):
    source = find_source(save_sd(tmp_path / "sd"))
    started = time.process_time()  # a busy machine is no fault of it
    dry_run(source)
    assert time.process_time() - started < 3
