"""What is done to torch's graph before onnxslim: as much as torch's own optimiser does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.family_cases import case

from diffc.models.families.examples import example_inputs
from diffc.models.onnx_export import export_denoiser
from diffc_export.onnx import export as module


def torchs_own(model) -> None:
    from onnxscript.optimizer import optimize_ir

    optimize_ir(model)


@pytest.mark.slow
def test_no_node_is_left_that_torchs_optimiser_removes(tmp_path, monkeypatch):
    tiny = case("unet2d")
    inputs = example_inputs(tiny.specs, tiny.config, 3, torch.Generator().manual_seed(0))
    nodes, outputs = [], []
    for name, fold in (("ours", module._fold), ("torch", torchs_own)):
        monkeypatch.setattr(module, "_fold", fold)
        export_denoiser(tiny.model, tiny.family, tiny.specs, tmp_path / name)
        file = str(tmp_path / name / "model.onnx")
        nodes.append(Counter(node.op_type for node in onnx.load(file).graph.node))
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {k: v.numpy() for k, v in inputs.items()})[0])
    assert nodes[0] == nodes[1]
    np.testing.assert_array_equal(*outputs)
