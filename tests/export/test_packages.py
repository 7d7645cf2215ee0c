"""Imports go one way: diffc, diffc_export, diffc_runtime; each package works in every install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from PIL import Image
from support import tiny_prompts

import diffc_export
import diffc_runtime
from diffc.bundle.build import write_bundle

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
ROOT = Path(__file__).parents[2]
ABOVE = {"diffc_runtime": ("diffc", "diffc_export", "torch"), "diffc_export": ("diffc",)}


def _modules(package) -> list[str]:
    root = Path(package.__file__).parent
    paths = [p for p in root.rglob("*.py") if "servers" not in p.parts and p.stem != "__main__"]
    return sorted(
        ".".join((root.name, *path.relative_to(root).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for path in paths
    )


@pytest.mark.slow
@pytest.mark.parametrize("package", [diffc_runtime, diffc_export], ids=lambda p: p.__name__)
def test_a_package_imports_nothing_from_above_it(package):
    names, above = _modules(package), ABOVE[package.__name__]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n    importlib.import_module(name)\n"
        f"print([name for name in {above!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_readme_takes_a_module_to_a_checked_engine(tmp_path):
    text = (ROOT / "export" / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", ["wheel", "sdist", "folder", "editable"])
def test_every_way_of_installing_finds_packages_and_recipes(way, tmp_path):
    python = _environment(tmp_path / "env")
    what = {"folder": [str(ROOT)], "editable": ["--editable", str(ROOT)]}.get(way)
    if what is None:
        what = [str(_archive(way, tmp_path))]
    _run(*PIP, "--python", str(python), "install", "--no-deps", *what, cwd=tmp_path)
    code = (
        "import diffc, diffc_export, diffc_runtime\n"
        "from diffc.recipe import recipe_files\n"
        "print(len(list(recipe_files())), diffc.__file__)"
    )
    count, file = _run(str(python), "-c", code, cwd=tmp_path).split(maxsplit=1)
    assert int(count) == len(list((ROOT / "recipes").glob("*.yaml"))) > 5
    assert Path(file.strip()).is_relative_to(ROOT if way == "editable" else tmp_path)
    diffc = python.with_name("diffc")
    assert "compile" in _run(str(diffc), "--help", cwd=tmp_path)


@pytest.mark.slow
def test_three_lines_of_python_after_a_wheel_make_a_picture_of_a_prompt(tmp_path):
    tiny_prompts.SAVERS["sd"](tmp_path / "model")
    out = tiny_prompts.build_engines(tmp_path / "model", tmp_path / "out", tmp_path / "cache")
    write_bundle(out, tmp_path / "sd", server="none", side="dense")
    python = _environment(tmp_path / "env")
    wheel = str(_archive("wheel", tmp_path))
    _run(*PIP, "--python", str(python), "install", "--no-deps", wheel, cwd=tmp_path)
    code = (
        "import diffc\n"
        "pipe = diffc.pipeline('sd')\n"
        "pipe('a red cat', num_inference_steps=2).images[0].save('a.png')\n"
    )
    _run(str(python), "-c", code, cwd=tmp_path)
    assert Image.open(tmp_path / "a.png").size == (16, 16)


def _environment(folder: Path) -> Path:
    """An environment of its own that sees this one's dependencies, and not its diffc."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    here = sysconfig.get_paths()["purelib"]  # a path in a .pth: that folder's .pth are not read
    (site / "dependencies.pth").write_text(f"{here}\n")
    return folder / "bin" / "python"


def _archive(way: str, folder: Path) -> Path:
    """The wheel or the sdist of this checkout, built by pip's own isolated backend."""
    if way == "wheel":
        _run(*PIP, "wheel", "--no-deps", "--wheel-dir", str(folder / "made"), str(ROOT), cwd=folder)
    else:
        tools = folder / "tools"
        _run(*PIP, "install", "--target", str(tools), "hatchling", cwd=folder)
        code = (
            "import os, sys; sys.path.insert(0, sys.argv[1]); os.chdir(sys.argv[2])\n"
            "from hatchling.build import build_sdist; build_sdist(sys.argv[3])"
        )
        made = folder / "made"
        made.mkdir()
        _run(sys.executable, "-c", code, str(tools), str(ROOT), str(made), cwd=folder)
    (archive,) = (folder / "made").iterdir()
    return archive


def _run(*command: str, cwd: Path) -> str:
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_runtime_alone_opens_engines():
    """Targets build, bind and time; what opens an engine has one place for each runtime."""
    opening = ("InferenceSession(", "deserialize", "cudaMalloc")
    folder = Path(diffc_export.__file__).parent / "targets"
    sources = {path.name: path.read_text("utf-8") for path in folder.glob("*.py")}
    assert [name for name, text in sources.items() if any(call in text for call in opening)] == []
