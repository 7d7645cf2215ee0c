"""SDXL at its real size: groups and costs from the config alone, in under 60 s and 3 GB."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SDXL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "in_channels": 4,
}
# its own process, so that the peak of memory is the plan's alone
PROGRAM = r"""
import json, pathlib, re, sys, time
start = time.perf_counter()
from diffc.models.cut import skeleton
from diffc.models.families import family
from diffc.models.families.examples import meta_inputs
from diffc.prune.cost import cost_model
config = json.loads(sys.argv[1])
found = family("UNet2DConditionModel")
model = skeleton(found.class_name, config)
inputs = meta_inputs(found.specs(config))
groups = found.groups(model, inputs)
costs = cost_model(model, inputs, found.call, groups)
seconds = time.perf_counter() - start
# VmHWM: getrusage's peak is inherited from the process that started this one
peak = int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
dense = costs.cost(costs.dense)
print(json.dumps([seconds, peak, len(groups), dense.params, dense.macs_paper]))
"""


def test_real_configuration_is_planned_in_time_and_memory():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(SDXL)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak, groups, params, macs = json.loads(done.stdout.splitlines()[-1])
    assert seconds < 60
    assert peak < 3e9
    assert groups > 200
    assert params == pytest.approx(2567.46e6, rel=1e-5)  # as published: 2.6 B
    assert macs == pytest.approx(2.99e12, rel=1e-2)  # as published: 5.98 TFLOPs
