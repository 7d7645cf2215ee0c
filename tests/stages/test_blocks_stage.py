"""The stage in which blocks learn alone: what it leaves in OUT, and what follows from it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from support.runs import compile_quickly

import diffc
from diffc.errors import RequestError
from diffc.report.html import to_html
from diffc.report.markdown import to_markdown
from diffc.stages.repair import REPAIRED

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
LEARNING = {"steps": 30, "rows": 32, "batch": 8, "learning_rate": 3e-4}


def compiled(model, out, trained=0, **blocks):
    distill = {"steps": trained, "block_local": {**LEARNING, **blocks}}
    return compile_quickly(model, out, ratio=0.5, distill=distill, repair={"rows": 32})


@pytest.fixture(scope="module")
def learnt(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("learnt")
    return out, compiled(tiny_model, out)


def test_without_a_training_after_it_the_model_has_what_blocks_learnt(learnt):
    out, report = learnt
    cut, final = (load_file(out / side / WEIGHTS) for side in ("pruned", "model"))
    repaired = load_file(out / ".diffc" / REPAIRED)
    files = sorted((out / ".diffc/blocks").iterdir())
    new = {f"{path.stem}.{key}": value for path in files for key, value in load_file(path).items()}
    assert report.block_local["is_used"] and new
    for name, value in final.items():
        assert torch.equal(value, new.get(name, repaired.get(name, cut[name])))
    record = report.block_local
    assert record["after"]["to_dense"] < record["before"]["to_dense"]
    assert record["before"]["to_dense"] > record["dense"]["to_dense"] == 0
    loaded = diffc.load(out / "model").unet.state_dict()
    assert all(torch.equal(loaded[name], final[name]) for name in final)


def test_the_report_shows_every_block(learnt):
    out, report = learnt
    text, page = to_markdown(report), to_html(report, out)
    blocks = report.block_local["blocks"]
    nearer = sum(block["is_used"] for block in blocks)
    assert f"{nearer} of {len(blocks)} blocks came nearer" in text
    assert all(block["name"] in page for block in blocks)
    assert f"{report.block_local['after']['to_dense']:.4g}" in text


@pytest.mark.slow
def test_a_training_begins_with_what_blocks_learnt(tiny_model, tmp_path):
    compiled(tiny_model, tmp_path, trained=2)
    record = json.loads((tmp_path / ".diffc/distill.json").read_text())
    blocks = json.loads((tmp_path / ".diffc/distill-blocks.json").read_text())
    assert record["inputs"]["blocks"] == blocks["key"]
    compiled(tiny_model, tmp_path, trained=2, steps=0)
    assert not (tmp_path / ".diffc/blocks").exists()
    assert not (tmp_path / ".diffc/distill-blocks.json").exists()
    assert json.loads((tmp_path / "report.json").read_text())["block_local"] is None


@pytest.mark.slow
def test_a_plan_that_cuts_nothing_teaches_no_block(tiny_model, tmp_path):
    distill = {"steps": 0, "block_local": LEARNING}
    report = compile_quickly(tiny_model, tmp_path, ratio=0.0, distill=distill)
    assert not report.block_local["is_used"] and not (tmp_path / ".diffc/blocks").exists()
    assert "Block-local" not in to_markdown(report)


@pytest.mark.parametrize("option", [{"steps": -1}, {"rows": 3}, {"batch": 0}, {"step": 4}])
def test_bad_options_are_refused(tiny_model, tmp_path, option):
    with pytest.raises(RequestError, match=r"block_local"):
        compiled(tiny_model, tmp_path, **option)
