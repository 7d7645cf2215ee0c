"""Every command in README and docs is run here, in a folder with tiny models, or says why not.

What a page names is there: ``./my-model`` and ``MODEL`` are tiny DDPMs, ``./sdxl/unet`` the
config of a scaled-down SDXL, ``OUT`` a compiled run, ``./images`` pictures, ``my.yaml`` a recipe.
The recipes of the U-Nets' families are replaced by one of a few steps, so that ``demo`` too takes
seconds.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from PIL import Image
from support import pages
from support.quick import QUICK

from diffc.cli.app import app
from diffc.recipe.files import RECIPES

NAMES = [str(page.relative_to(pages.ROOT)) for page in pages.PAGES]
RUN = [
    name
    for name, page in zip(NAMES, pages.PAGES, strict=True)
    if any(block.reason is None for block in pages.blocks(page.read_text()))
]
OVERLAY = """
import os
from pathlib import Path
import diffc.recipe.files
diffc.recipe.files.RECIPES = Path(os.environ["DIFFC_TEST_RECIPES"])
"""
"""Run by every Python that a command starts, before anything else."""
SDXL = {
    "_class_name": "UNet2DConditionModel", "sample_size": 8, "block_out_channels": [64, 128],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1,
    "cross_attention_dim": 24, "attention_head_dim": [2, 4], "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2], "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 34,
}  # fmt: skip


@pytest.fixture(scope="session")
def place(compiled, tmp_path_factory):
    """The folder that every page's own is copied from, and the environment of its commands."""
    out, _, cache = compiled
    folder = tmp_path_factory.mktemp("docs")
    work = folder / "work"
    model = Path(json.loads((out / "report.json").read_text())["model"]["name"])
    for name in ("my-model", "MODEL"):
        shutil.copytree(model, work / name)
    for name in ("OUT", "OUT-30", "OUT-70"):
        shutil.copytree(out, work / name)
    (work / "sdxl" / "unet").mkdir(parents=True)
    (work / "sdxl" / "unet" / "config.json").write_text(json.dumps(SDXL))
    save_sdxl(work / "tiny-sdxl")
    shutil.copytree(pages.ROOT / "bench" / "configs", work / "bench" / "configs")
    (work / "images").mkdir()
    for i in range(10):
        Image.new("L", (16, 16), 25 * i).save(work / "images" / f"{i}.png")
    (work / "my.yaml").write_text("prune: {ratio: 0.3}\ndistill: {steps: 2}\n")
    return work, environment(folder, cache)


def save_sdxl(folder: Path) -> None:
    """A random pipeline of the scaled-down SDXL's denoiser and its scheduler."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    UNet2DConditionModel.from_config({**SDXL, "sample_size": 16}).save_pretrained(folder / "unet")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    parts = {"unet": ["diffusers", "UNet2DConditionModel"],
             "scheduler": ["diffusers", "DDIMScheduler"]}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline", **parts}))


LOOP = {"steps": 2, "batch": 4, "trajectories": 4, "teacher_steps": 2}
"""Of the shipped models' recipes, in the place of their own training for a loop."""


def environment(folder: Path, cache: Path) -> dict[str, str]:
    recipes = shutil.copytree(RECIPES, folder / "recipes")
    for name, family in (("unet2d", "UNet2DModel"), ("unet2d-condition", "UNet2DConditionModel")):
        quick = {"family": family, "about": "A few steps of everything.", **QUICK}
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(quick))
    for name in ("demo", "demo-text"):
        shipped = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        quick = {**shipped, **QUICK, "repair": {"rows": 8}}
        quick["distill"] = {**shipped["distill"], **QUICK["distill"], "loop": LOOP}
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(quick))
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(OVERLAY)
    paths = [str(folder / "site"), str(pages.ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "DIFFC_TEST_RECIPES": str(recipes),
        "DIFFC_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "80",
    }


def run(block: pages.Block, work: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    shell = ["bash", "-euo", "pipefail", "-c", block.text]
    command = shell if block.language == "bash" else [sys.executable, "-c", block.text]
    return subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_commands_of_a_page_run(place, tmp_path, name):
    work = shutil.copytree(place[0], tmp_path / "work")
    for block in pages.blocks((pages.ROOT / name).read_text()):
        if block.reason is None:
            done = run(block, work, place[1])
            said = f"{block.text}\nended with {done.returncode}:\n{done.stderr[-3000:]}"
            assert done.returncode in block.codes, said


@pytest.mark.slow
def test_a_command_that_fails_would_be_seen(place, tmp_path):
    for text in ("diffc plan ./nowhere\n", "diffc doctor --jsn\n"):
        (block,) = pages.blocks(f"```bash\n{text}```\n")
        assert run(block, tmp_path, place[1]).returncode == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_is_not_run_says_why(name):
    for block in pages.blocks((pages.ROOT / name).read_text()):
        assert block.reason is None or len(block.reason.split()) >= 2, block.text


LINES = [
    (name, line)
    for name, page in zip(NAMES, pages.PAGES, strict=True)
    for block in pages.blocks(page.read_text())
    for line in pages.commands(block)
]


@pytest.mark.parametrize(("name", "line"), LINES)
def test_commands_are_taken(name, line):
    """Those that are not run too: parsed by the real parser, down to the last option."""
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    context = command.make_context("diffc", list(words))
    while hasattr(command, "commands"):
        if not context._protected_args + context.args:
            break
        found, command, words = command.resolve_command(
            context, context._protected_args + context.args
        )
        context = command.make_context(found, list(words), parent=context)


@pytest.mark.parametrize("name", NAMES)
def test_no_command_hides_in_another_fence(name):
    """A block of shell without its language would be neither run nor marked."""
    for fence in pages.FENCE.finditer((pages.ROOT / name).read_text()):
        recorded = fence[2].startswith("$ ")  # what a terminal showed
        if fence[1] not in ("bash", "python") and not recorded:
            lines = fence[2].splitlines()
            assert not any(re.match(r"(diffc|pip|make|python|torchrun) ", line) for line in lines)


def test_the_blocks_are_found():
    text = "<!-- not run: no GPU here -->\n```bash\na\n```\n\n```python\nb\n```\n```\nc\n```\n"
    text += "<!-- run: exit 0 or 3 -->\n```bash\nd\n```\n"
    found = [(b.language, b.text, b.reason, b.codes) for b in pages.blocks(text)]
    assert found == [
        ("bash", "a\n", "no GPU here", (0,)), ("python", "b\n", None, (0,)),
        ("bash", "d\n", None, (0, 3)),
    ]  # fmt: skip
