"""diffc generate: files, grids and comparisons, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import diffc_in_process

import diffc


@pytest.fixture(scope="module")
def out(compiled) -> Path:
    return compiled[0]


def generate(out: Path, *arguments: object) -> object:
    return diffc_in_process("generate", out, *arguments)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_one_file_and_what_made_it(out, tmp_path):
    done = generate(out, "--out", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    name, size, _, how = done.stdout.rstrip("\n").split("  ")
    assert (name, size) == (str(tmp_path / "a.png"), "16x16")
    assert how == "ort-cpu fp32, ddim 2 steps, seed 0" and done.stderr == ""
    expected = diffc.pipeline(out)(seed=0).images[0]
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), np.asarray(expected))


def test_numbered_files_a_grid_and_other_formats(out, tmp_path):
    assert generate(out, "--n", 3, "--out", tmp_path / "a.png").returncode == 0
    assert generate(out, "--n", 3, "--grid", "--out", tmp_path / "a.png").returncode == 0
    grid = pixels(tmp_path / "a.png")
    assert grid.shape == (32, 32)
    for i, (top, left) in enumerate([(0, 0), (0, 16), (16, 0)]):
        cell = grid[top : top + 16, left : left + 16]
        np.testing.assert_array_equal(cell, pixels(tmp_path / f"a-{i}.png"))
    assert not grid[16:, 16:].any()
    for name in ("a.jpg", "a.webp"):
        assert generate(out, "--out", tmp_path / name).returncode == 0
        assert Image.open(tmp_path / name).size == (16, 16)
    assert generate(out, "--n", 2, "--out", tmp_path / "a.npy").returncode == 0
    assert np.load(tmp_path / "a.npy").shape == (2, 1, 16, 16)


def test_dense_beside_compressed_from_the_same_noise(out, tmp_path):
    done = generate(out, "--n", 3, "--compare", "--out", tmp_path / "both.png")
    assert "ort-cpu fp32, ddim 2 steps, seed 0" in done.stdout.splitlines()[0]
    words = r"^dense above compressed: [\d.]+ s, ddim 2 steps; they differ by [\d.]+ of 255"
    assert re.search(words, done.stdout, re.M)
    both = pixels(tmp_path / "both.png")
    assert both.shape == (32, 48)
    for top, side in enumerate(("dense", "compressed")):
        images = diffc.pipeline(out, side=side)(n=3).images
        row = np.concatenate([np.asarray(image) for image in images], axis=1)
        np.testing.assert_array_equal(both[16 * top : 16 * top + 16], row)
    generate(out, "--compare", "--out", tmp_path / "one.png")
    assert pixels(tmp_path / "one.png").shape == (16, 32)


def test_json_is_one_object_and_quiet_says_nothing(out, tmp_path):
    done = generate(out, "--n", 2, "--seed", 3, "--json", "--out", tmp_path / "a.png")
    said = json.loads(done.stdout)
    assert said.pop("seconds") > 0
    assert said == {
        "files": [str(tmp_path / "a-0.png"), str(tmp_path / "a-1.png")],
        "runs_on": "ort-cpu fp32",
        "sampler": "ddim",
        "steps": 2,
        "guidance": 1.0,
        "seed": 3,
    }
    done = generate(out, "--compare", "--json", "--out", tmp_path / "both.png")
    sides = json.loads(done.stdout)["sides"]
    assert list(sides) == ["dense", "compressed"] and sides["dense"]["seconds"] > 0
    done = generate(out, "--quiet", "--out", tmp_path / "b.png")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_file_that_is_there_stays_without_force(out, tmp_path):
    (tmp_path / "a-1.png").write_text("mine")
    done = generate(out, "--n", 2, "--out", tmp_path / "a.png")
    assert done.returncode == 2
    assert f"{tmp_path / 'a-1.png'} exists: name another file with --out" in done.stderr
    assert (tmp_path / "a-1.png").read_text() == "mine" and not (tmp_path / "a-0.png").exists()
    assert generate(out, "--n", 2, "--force", "--out", tmp_path / "a.png").returncode == 0
    assert pixels(tmp_path / "a-1.png").shape == (16, 16)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--n", 0], "the number of images, must be a whole number from 1 to 1024, not 0"),
        (["--seed", -1], "seed must be a whole number from 0 to"),
        (["--steps", 1001], "steps must be a whole number from 1 to 1000, not 1001"),
        (["--steps", 0], "steps must be a whole number from 1 to 1000, not 0"),
        (["--sampler", "plms"], "unknown sampler 'plms'"),
        (["--guidance", 3], "needs a model with conditions"),
        (["--label", "x"], "--label is a number, or several: 3,7; not 'x'"),
        (["--label", "2,-1"], "--label 2,-1: the first class is 0"),
        (["--label", 1], "unknown condition 'class_labels' (the model takes: none)"),
        (["--condition", "x"], "a condition is NAME=NUMBER or NAME=FILE.npy, not 'x'"),
        (["--condition", "seed=3"], "'seed' is no condition of a model: --help has the flag"),
        (["--target", "trt"], "unknown target 'trt'"),
        (["--dtype", "half"], "unknown dtype 'half'"),
        (["--dense", "--compare"], "--compare shows both sides: leave --dense out"),
        (["--out", "a.gif"], "--out must end in .png, .jpg, .jpeg, .webp or .npy, not 'a.gif'"),
        (["--out", "nowhere/a.png"], "--out: the folder nowhere does not exist"),
    ],
)
def test_a_wrong_request_is_one_line(out, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    done = generate(out.absolute(), *arguments)
    assert done.returncode == 2 and done.stdout == ""
    first, *hint = done.stderr.splitlines()
    assert first.startswith("diffc: ") and says in first
    assert len(hint) <= 1 and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission(out, tmp_path):
    tmp_path.chmod(0o500)
    done = generate(out, "--out", tmp_path / "a.png")
    assert done.returncode == 2 and "cannot be written to by this user" in done.stderr


def test_a_device_that_takes_no_file(out):
    done = generate(out, "--steps", 1, "--out", "/proc/a.png")
    assert done.returncode == 2 and done.stderr.startswith("diffc: ")
    assert "/proc" in done.stderr


def test_a_folder_that_is_no_run(tmp_path):
    done = generate(tmp_path, "--out", tmp_path / "a.png")
    assert done.returncode == 2
    assert done.stderr.startswith(f"diffc: {tmp_path} holds no run of diffc\n")
