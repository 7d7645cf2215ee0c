"""OUT/model as a folder of its own: its card, and diffusers' own way to open it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from support.pages import ROOT
from support.pipelines import save_ddpm

import diffc
from diffc.report.card import card, write_card
from diffc.report.markdown import code_span
from diffc.report.model import Report
from diffc_runtime.noise import image_noise


@pytest.fixture(scope="module")
def model(compiled) -> Path:
    return compiled[0] / "model"


def test_diffusers_opens_it_where_diffc_was_imported(model):
    """The same weights and the same pictures as ``diffc.load``, in diffusers' own classes."""
    opened, expected = DiffusionPipeline.from_pretrained(model), diffc.load(model)
    assert type(opened) is type(expected) and type(opened.unet).__module__.startswith("diffusers.")
    ours, theirs = expected.unet.state_dict(), opened.unet.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    x = torch.from_numpy(image_noise(0, 0, 1, (1, 16, 16)))
    with torch.no_grad():
        assert torch.equal(opened.unet(x, 5).sample, expected.unet(x, 5).sample)


def test_in_another_dtype_and_saved_again(model, tmp_path):
    opened = DiffusionPipeline.from_pretrained(model, dtype=torch.bfloat16)
    assert {value.dtype for value in opened.unet.parameters()} == {torch.bfloat16}
    opened.save_pretrained(tmp_path / "again")
    again = diffc.load(tmp_path / "again").unet.state_dict()
    assert all(torch.equal(again[n], v.float()) for n, v in opened.unet.state_dict().items())


@pytest.mark.slow
def test_in_any_other_program_diffusers_says_to_import_diffc(model):
    code = (
        "import sys\n"
        "from diffusers import DiffusionPipeline\n"
        "DiffusionPipeline.from_pretrained(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", code, model]
    done = subprocess.run(command, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "import diffc before calling `from_pretrained`" in last


def test_diffc_gives_no_other_names_away():
    with pytest.raises(AttributeError, match="has no attribute 'UNet2DModl'"):
        _ = diffc.UNet2DModl


# The card -----------------------------------------------------------------------------------------


def front(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_is_the_compressed_models_own(compiled):
    out, report, _ = compiled
    text = (out / "model" / "README.md").read_text()
    name = Path(report.model.name).name
    assert f"\n# {name}, compressed by diffc\n" in text
    share = 1 - report.compressed.macs / report.model.macs
    done = ", repaired in closed form, and distilled from it (4 steps)"
    assert f"with {share * 100:.1f} % of its MACs cut away{done}" in text
    ssim = report.quality["ssim"]["mean"]
    assert f"SSIM to dense: {ssim:.3f}" in text
    assert 'diffc.load("FOLDER")' in text and "import diffc" in text
    assert front(text)["library_name"] == "diffusers"


def test_of_the_dense_models_card_its_licence_is_kept(compiled, tmp_path):
    out, report, _ = compiled
    copy = shutil.copytree(out, tmp_path / "OUT")
    dense = "---\nlicense: mit\ntags: [dense]\nbase_model: other/model\n---\n# Dense, FID 2.1\n"
    (copy / "model" / "README.dense.md").write_text(dense)
    write_card(report, copy)
    text = (copy / "model" / "README.md").read_text()
    assert front(text)["license"] == "mit" and "dense" not in front(text)["tags"]
    assert "FID 2.1" not in text and "base_model" not in text
    for broken in ("---\n: [\n---\n", "no front\n", "---\n- 1\n---\n", ""):
        (copy / "model" / "README.dense.md").write_text(broken)
        write_card(report, copy)
        assert "license" not in front((copy / "model" / "README.md").read_text())


def test_without_figures_the_card_says_so(compiled):
    report = compiled[1].model_copy(update={"targets": [], "quality": None, "distillation": None})
    text = card(report, {})
    assert "## Measured\n\nNothing yet.\n" in text
    assert "and not trained after the cut. It is not the dense model" in text


def test_a_name_stands_in_the_card_as_it_is():
    """In a code span a backslash is no escape, and would be shown."""
    demo = Report.read(ROOT / "bench" / "results" / "demo-run.json")
    named = demo.model_copy(update={"model": demo.model.model_copy(update={"name": "my_net"})})
    assert " of `my_net` with " in card(named, {}) and "# my\\_net, compressed" in card(named, {})
    assert code_span("a`b*c") == "`` a`b*c ``"


def test_the_card_names_every_training():
    """The demo's own run: repaired, and trained for its loop alone."""
    demo = Report.read(ROOT / "bench" / "results" / "demo-run.json")
    loop = "120 steps for ddim:2:1@trailing"
    assert f", repaired in closed form, and distilled from it ({loop}). It" in card(demo, {})
    blocks = {"steps": 1200, "is_used": True}
    both = demo.model_copy(update={"block_local": blocks, "distillation": {"steps": 30}})
    assert f"(1,200 steps of each block, 30 steps, {loop})" in card(both, {})


@pytest.mark.slow
def test_a_copied_card_is_not_the_dense_models(tmp_path):
    from support.runs import compile_quickly

    dense = save_ddpm(tmp_path / "dense")
    (dense / "README.md").write_text("---\nlicense: mit\n---\n# A dense model\n")
    compile_quickly(dense, tmp_path / "OUT", stop="distill")
    folder = tmp_path / "OUT" / "model"
    assert (folder / "README.dense.md").read_text().endswith("# A dense model\n")
    text = (folder / "README.md").read_text()
    assert text.startswith("---\n") and "A dense model" not in text
    assert front(text)["license"] == "mit"
    before = (folder / "unet" / "config.json").stat().st_mtime_ns
    compile_quickly(dense, tmp_path / "OUT", stop="distill")  # reused: the folder stays
    assert (folder / "unet" / "config.json").stat().st_mtime_ns == before
    assert not (tmp_path / "OUT" / "pruned" / "README.md").exists()
    assert Report.read(tmp_path / "OUT").compressed is not None
    assert np.isfinite(Report.read(tmp_path / "OUT").quality["ssim"]["mean"])
