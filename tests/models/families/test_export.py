"""Every family, cut, through ONNX: torch and ONNX Runtime agree at batches 1 and 3."""

from __future__ import annotations

import copy

import pytest
import torch
from support.family_cases import CASES, case
from support.family_oracle import random_keep

from diffc.models.families.examples import example_inputs
from diffc.prune.surgery import cut

TOLERANCE = 2e-5  # float32, outputs of order 1; ONNX Runtime fuses attention and normalisation

pytestmark = pytest.mark.slow


DENSE = ("sdxl", "flux")
"""Exported uncut too: a cut network's graph is the dense one with other widths."""


@pytest.mark.parametrize(
    ("name", "is_cut"),
    [(name, True) for name in CASES] + [(name, False) for name in DENSE],
    ids=lambda value: {True: "cut", False: "dense"}.get(value, value),
)
def test_onnx_parity(name, is_cut, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    from diffc.models.onnx_export import export_denoiser

    tiny = case(name)
    model = copy.deepcopy(tiny.model)
    if is_cut:
        cut(model, tiny.groups, random_keep(tiny.groups, 3))
    export_denoiser(model, tiny.family, tiny.specs, tmp_path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        generator = torch.Generator().manual_seed(batch)
        inputs = example_inputs(tiny.specs, tiny.config, batch, generator)
        with torch.no_grad():
            expected = tiny.family.call(model, inputs)
        (got,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        assert (torch.from_numpy(got) - expected).abs().max() <= TOLERANCE
