"""A conditional UNet: encoder states, class labels and added conditions are inputs like the others.

Built and measured on the CPU's targets, at two batch sizes; torch is the oracle.
"""

import numpy as np
import pytest
import torch

from diffc.data.clean import CleanSet
from diffc.errors import InputError
from diffc.measure.compare import MeasureOptions, measure_target
from diffc.measure.inputs import example_inputs as engine_inputs
from diffc.measure.latency import LatencyOptions
from diffc.measure.reference import write_reference
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.families.examples import example_inputs
from diffc.models.onnx_export import export_denoiser
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.engine import read_info

INPUTS = [
    "sample", "timestep", "encoder_hidden_states", "class_labels", "text_embeds", "time_ids",
]  # fmt: skip
SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000,
             "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02,
             "prediction_type": "epsilon"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 16), cross_attention_dim=12, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), num_class_embeds=10,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 6 * 8,
    ).eval()  # fmt: skip
    known = family("UNet2DConditionModel")
    specs = known.specs(model.config)
    assert [spec.name for spec in specs] == INPUTS
    out = tmp_path_factory.mktemp("conditional") / "onnx"
    export_denoiser(
        model, known, specs, out, facts={"prediction": "epsilon", "scheduler": SCHEDULER}
    )
    drawn = example_inputs(specs, model.config, 8, torch.Generator().manual_seed(0))
    conditions = {k: v for k, v in drawn.items() if k not in ("sample", "timestep")}
    clean = CleanSet(drawn["sample"], conditions, "noise")
    denoiser = denoiser_of(model, known, SCHEDULER, specs)
    write_reference(out / "reference.safetensors", denoiser, clean, 0)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ort-cpu", "openvino"])
def test_conditional_unet_is_built_and_measured(folder, tmp_path, name):
    if not target(name).status().runnable:
        pytest.skip(f"no {name} here")
    drain(target(name).build(folder, BuildOptions(batch=(1, 4), threads=1), tmp_path / "e"))
    assert [spec.name for spec in read_info(tmp_path / "e").inputs] == INPUTS
    reference = folder / "reference.safetensors"
    options = MeasureOptions(
        latency=LatencyOptions(rounds=3, seconds=0.0, warmup_seconds=0.1), memory=False,
        references={"dense": reference, "compressed": reference},
    )  # fmt: skip
    results = drain(measure_target(tmp_path / "e", tmp_path / "e", options))
    assert [result.batch for result in results] == [1, 4]
    for result in results:
        assert result.parity.passed, result.parity.reason
        assert result.dense.latency_ms.n >= 3


@pytest.mark.slow
@pytest.mark.parametrize("changed", INPUTS[1:])
def test_every_condition_reaches_the_engine(folder, tmp_path, changed):
    """An input that the export had baked in would change nothing."""
    drain(target("ort-cpu").build(folder, BuildOptions(threads=1), tmp_path / "e"))
    runner = target("ort-cpu").load(tmp_path / "e")
    inputs = engine_inputs(runner.info, 1, folder / "reference.safetensors")
    before = runner(inputs)["out_sample"]
    other = inputs[changed] + np.ones(1, inputs[changed].dtype)
    if changed == "class_labels":
        other = (inputs[changed] + 1) % 10
    assert not np.allclose(runner({**inputs, changed: other})["out_sample"], before, atol=1e-7)
    with pytest.raises(InputError, match=f"input '{changed}' is missing"):
        runner({key: value for key, value in inputs.items() if key != changed})
