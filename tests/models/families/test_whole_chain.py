"""A scaled-down random model of each family through ``diffc.compile``.

A U-Net, a transformer, and one with packed latents go on to a measured engine; exports of the
others are tests/models/families/test_export.py's, their engines the prompted pipelines', and
tests/stages/test_students_of_families.py has more of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from support.family_cases import CASES, random_model
from support.quick import QUICK

import diffc
from diffc.models.families import family
from diffc.models.families.examples import example_inputs

SIDE = 16
FLOW = ("sd3", "sana", "flux")


def save_pipeline(folder, name):
    """A pipeline folder of the case; its inputs' specs and its config."""
    import diffusers

    class_name, config, _ = CASES[name]
    found = family(class_name)
    model = random_model(class_name, config | ({} if name == "flux" else {"sample_size": SIDE}))
    model.save_pretrained(folder / found.component)
    scheduler = (
        diffusers.FlowMatchEulerDiscreteScheduler if name in FLOW else diffusers.DDPMScheduler
    )
    scheduler().save_pretrained(folder / "scheduler")
    parts = {found.component: class_name, "scheduler": scheduler.__name__}
    if name == "flux":  # its latents are packed by what its VAE's config says
        parts["vae"] = "AutoencoderKL"
        diffusers.AutoencoderKL(
            latent_channels=2, block_out_channels=(8, 8), norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ).save_pretrained(folder / "vae")  # fmt: skip
    index = {part: ["diffusers", kind] for part, kind in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    plain = json.loads(json.dumps(dict(model.config)))
    return found.specs(plain, SIDE if name == "flux" else None), plain


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ldm4", "dit", "flux"])
def test_a_small_model_becomes_a_measured_engine(tmp_path, name):
    report = compile_case(tmp_path, name, "bench")
    assert report.targets[0].parity.passed and report.targets[0].speedup is not None
    judge(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sana"])
def test_a_small_model_becomes_a_distilled_one(tmp_path, name):
    judge(compile_case(tmp_path, name, "distill"))


def judge(report: diffc.Report) -> None:
    assert report.compressed.macs == pytest.approx(0.75 * report.model.macs, rel=0.15)
    assert report.quality["ssim"]["n"] == QUICK["quality"]["images"]


def compile_case(tmp_path: Path, name: str, stop: str) -> diffc.Report:
    specs, config = save_pipeline(tmp_path / "model", name)
    rows = example_inputs(specs, config, 6)
    conditions = {spec.name: rows[spec.name] for spec in specs if spec.kind == "condition"}
    save_file({k: v.contiguous() for k, v in conditions.items()}, tmp_path / "data.safetensors")
    options = {
        **QUICK,
        "data": {**QUICK["data"], "source": str(tmp_path / "data.safetensors")},
    }
    if name == "flux":
        options["export"] = {"resolution": SIDE}
    return diffc.compile(
        tmp_path / "model", ratio=0.25, out=tmp_path / "out", options=options, stop=stop
    )
