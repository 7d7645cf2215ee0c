"""Families of other distributions: the example of docs/extending.md, and broken ones."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.distributions import install
from support.runs import compile_quickly, refusal

from diffc.errors import InputError, UnavailableError
from diffc.models.families import broken_families, families, family, family_names
from diffc.models.source import find_source
from diffc.stages.data import model_packages

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"
SECTION = PAGE.read_text().partition("## A family")[2].partition("\n## ")[0]
EXAMPLE = re.search(r"```python\n(.*?)```", SECTION, re.S)[1]
POINTS = re.search(r"```toml\n(.*?)```", SECTION, re.S)[1]
POINTS = POINTS.replace('project.entry-points."diffc.families"', "diffc.families").replace('"', "")
CLASS = "PixelTransformer2DModel"
MODEL = """
import torch
from diffusers import DiTTransformer2DModel


class PixelTransformer2DModel(DiTTransformer2DModel):
    def forward(self, sample, timestep, return_dict=True):
        labels = torch.zeros_like(timestep, dtype=torch.long)
        return super().forward(sample, timestep, labels, return_dict=return_dict)
"""
CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 3,
    "out_channels": 3,
    "num_layers": 2,
    "sample_size": 16,
    "patch_size": 2,
    "num_embeds_ada_norm": 1,
}


@pytest.fixture
def add(monkeypatch, tmp_path):
    """Installs a distribution that brings families: add(name, {module: source}, entry points)."""

    def write(name, modules, points=POINTS):
        for module in modules:
            monkeypatch.delitem(sys.modules, module, raising=False)
        place = tmp_path / f"site-{len(list(tmp_path.glob('site-*')))}"
        install(monkeypatch, place, name, modules, points)

    return write


@pytest.fixture
def pixel_model(add, tmp_path):
    """A pipeline's folder of the example's class, whose package is installed."""
    from diffusers import DDPMScheduler

    add("pixel-dit", {"pixel_dit": MODEL, "pixel_dit_family": EXAMPLE})
    folder = tmp_path / "model"
    kind = importlib.import_module("pixel_dit").PixelTransformer2DModel
    kind(**CONFIG).save_pretrained(folder / "transformer")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    index = {"transformer": ["pixel_dit", CLASS], "scheduler": ["diffusers", "DDPMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.slow
def test_the_example_goes_from_compile_to_an_engine(pixel_model, tmp_path):
    report = compile_quickly(pixel_model, tmp_path / "out", "bench")
    assert report.targets[0].parity.passed
    assert report.compressed.macs < 0.8 * report.model.macs
    described = json.loads((tmp_path / "out/onnx/compressed/model.json").read_text())
    assert described["class_name"] == CLASS
    again = find_source(tmp_path / "out" / "model")
    assert again.class_name == CLASS and again.is_cut and again.library == "pixel_dit"


def test_the_example_is_known_by_its_class(pixel_model):
    source = find_source(pixel_model)
    assert (source.class_name, source.component) == (CLASS, "transformer")
    assert find_source(pixel_model / "transformer").denoiser.library == "pixel_dit"
    assert model_packages(source) == ("torch", "diffusers", "pixel-dit")
    assert CLASS in [known.class_name for known in families()] and broken_families() == {}


def test_the_examples_facts_are_asked(pixel_model, tmp_path):
    error = refusal(pixel_model, tmp_path / "out", export={"resolution": "16x32"})
    assert str(error) == f"--resolution 16x32: a {CLASS} is compressed for squares only"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('libtoy.so is missing')", "OSError: libtoy.so is missing"),
        ("import a_package_that_is_missing", "No module named 'a_package_that_is_missing'"),
        ("raise ValueError", "cannot be used: ValueError"),
        ("def FAMILY(", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("", "it sets no FAMILY"),
        ("FAMILY = object()", "it sets no FAMILY"),
        (EXAMPLE.replace('component = "transformer"', "pass"), "it sets no component"),
        (EXAMPLE.replace('class_name = "P', 'class_name = "Q'), "its class_name is Q"),
        (EXAMPLE.replace("def specs", "def other"), "abstract method"),
    ],
)
def test_a_broken_family_is_named_and_in_nobodys_way(add, source, reason, tiny_model):
    add("pixel-dit", {"pixel_dit_family": source})
    with pytest.raises(UnavailableError, match=re.escape(reason)) as caught:
        family(CLASS)
    line = str(caught.value)
    assert CLASS in line and "pixel_dit_family" in line and "pixel-dit" in line
    assert "\n" not in line and len(line) < 200
    assert broken_families() == {CLASS: line}
    assert CLASS not in [known.class_name for known in families()]
    assert find_source(tiny_model).class_name == "UNet2DModel"


def test_a_broken_family_is_refused_when_its_class_is_needed(pixel_model, add, tmp_path):
    add("pixel-dit", {"pixel_dit_family": "raise OSError('libtoy.so is missing')"})
    error = refusal(pixel_model, tmp_path / "out")
    assert "libtoy.so is missing" in str(error) and "pixel-dit" in error.hint
    assert not (tmp_path / "out").exists()


def test_a_model_whose_package_is_not_installed_is_unsupported(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "_class_name": CLASS}))
    with pytest.raises(InputError, match=f"{CLASS} .* is not supported"):
        find_source(tmp_path, need_weights=False)


def test_two_families_of_one_class_are_both_named(add):
    add("first", {"first_family": EXAMPLE}, f"[diffc.families]\n{CLASS} = first_family\n")
    add("second", {"second_family": EXAMPLE}, f"[diffc.families]\n{CLASS} = second_family\n")
    with pytest.raises(UnavailableError, match=f"two families claim the class {CLASS}") as caught:
        family(CLASS)
    assert all(word in str(caught.value) for word in ("first_family", "second_family", "first"))
    assert family_names().count(CLASS) == 1 and CLASS in broken_families()


def test_a_family_that_claims_a_class_of_diffcs_own_is_named(add):
    points = "[diffc.families]\nUNet2DModel = first_family\n"
    add("first", {"first_family": EXAMPLE}, points)
    with pytest.raises(UnavailableError, match=r"families\.unet2d of diffc and first_family"):
        family("UNet2DModel")
    assert family("DiTTransformer2DModel").is_denoiser


def test_a_class_that_two_families_claim_is_no_matter_to_other_models(add, tmp_path):
    points = "[diffc.families]\nUNet2DModel = first_family\n"
    add("first", {"first_family": EXAMPLE}, points)
    index = {"transformer": ["diffusers", "DiTTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "transformer").mkdir()
    config = {"_class_name": "DiTTransformer2DModel"}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    source = find_source(tmp_path, need_weights=False)
    assert source.class_name == "DiTTransformer2DModel"


@pytest.mark.slow
def test_doctor_names_and_skips_a_broken_family(add):
    add("pixel-dit", {"pixel_dit_family": "raise OSError('libtoy.so is missing')"})
    command = [sys.executable, "-m", "diffc", "doctor"]
    shown = json.loads(subprocess.run([*command, "--json"], capture_output=True).stdout)
    assert "libtoy.so is missing" in shown["families"]["broken"][CLASS]
    assert "UNet2DModel" in shown["families"]["usable"]
    done = subprocess.run(command, capture_output=True, text=True)
    shown = " ".join(done.stdout.split())
    assert done.returncode == 0 and "skipped: the family of PixelTransformer2DModel" in shown


def test_families_are_listed_without_torch_and_denoisers_first():
    code = (
        "import sys; from diffc.models.families import families;"
        "print([known.is_denoiser for known in families()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == f"{[True] * 8 + [False]} False", done.stderr
