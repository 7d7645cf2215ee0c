"""Targets of other distributions: the example of docs/extending.md, and broken ones."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.distributions import install
from support.runs import compile_quickly

from diffc.errors import RequestError, UnavailableError
from diffc_export.targets import names, on_gpu, problems, target, targets
from diffc_runtime import loaders

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SECTION = PAGE.read_text().partition("## A target")[2].partition("\n## ")[0]
EXAMPLE = re.search(r"```python\n(.*?)```", SECTION, re.S)[1]
POINTS = re.search(r"```toml\n(.*?)```", SECTION, re.S)[1]
POINTS = POINTS.replace('project.entry-points."diffc.targets"', "diffc.targets").replace('"', "")


@pytest.fixture
def add(monkeypatch, tmp_path):
    """Installs a distribution that brings targets: add(name, {module: source}, entry points)."""
    monkeypatch.setattr(loaders, "_REGISTERED", {})

    def write(name, modules, points=POINTS):
        install(monkeypatch, tmp_path / name, name, modules, points)

    return write


def diffc(*arguments):
    command = [sys.executable, "-m", "diffc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_the_example_goes_through_every_verb(add, tiny_model, tmp_path):
    add("ort-basic", {"ort_basic": EXAMPLE})
    out = tmp_path / "out"
    report = compile_quickly(tiny_model, out, "bench", target="ort-basic")
    (row,) = report.targets
    assert row.target == "ort-basic" and row.compressed.latency_ms and row.parity
    assert row.compressed.memory.peak_bytes and row.compressed.memory.device_bytes is None
    assert "ort-basic" in (out / "report.md").read_text()

    done = diffc("check", out, "--baseline", out, "--most-seconds", 5)
    assert done.returncode in (0, 1, 3, 4), done.stderr
    assert "ort-basic fp32" in done.stdout and "peak memory" in done.stdout
    for server in ("none", "triton"):
        done = diffc("bundle", out, "--server", server, "--to", tmp_path / f"{server}-bundle")
        assert done.returncode == 0, done.stderr
    bundle, repository = tmp_path / "none-bundle", tmp_path / "triton-bundle"
    assert "pip install numpy pillow onnxruntime" in (bundle / "README.md").read_text()
    assert 'backend: "python"' in (repository / "denoiser" / "config.pbtxt").read_text()
    done = diffc("bundle", out, "--server", "ovms", "--to", tmp_path / "ovms")
    assert done.returncode == 2 and "--target openvino" in done.stderr

    grid = tmp_path / "grid.png"
    arguments = ["generate", "--n", "2", "--steps", "2", "--grid", "--out", str(grid)]
    alone = {**os.environ, "PYTHONPATH": ""}
    subprocess.run(
        [sys.executable, "-m", "diffc_runtime", *arguments],
        check=True, cwd=bundle, env=alone,
    )  # fmt: skip
    assert grid.is_file()


@pytest.mark.slow
def test_doctor_shows_the_example_and_names_a_broken_target(add):
    add("ort-basic", {"ort_basic": EXAMPLE})
    add("bad-toys", {"bad_toy": "raise OSError('libtoy.so is missing')"},
        "[diffc.targets]\nbad-toy = bad_toy\n")  # fmt: skip
    done = diffc("doctor", "--json")
    shown = json.loads(done.stdout)["targets"]
    assert shown["ort-basic"]["runnable"] and not shown["bad-toy"]["installed"]
    assert "bad_toy (bad-toys 1.0)" in shown["bad-toy"]["reason"]
    done = diffc("doctor")
    assert done.returncode == 0 and "bad-toy" in done.stdout


RAISES = EXAMPLE.replace("number = machine", "number = 1 / 0 or machine")


def test_doctor_shows_a_target_whose_status_raises_and_the_others(add):
    add("ort-basic", {"ort_basic": RAISES})
    shown = json.loads(diffc("doctor", "--json").stdout)["targets"]
    assert shown["ort-basic"]["reason"] == "its status() raised ZeroDivisionError: division by zero"
    assert not shown["ort-basic"]["runnable"] and shown["ort-cpu"]["runnable"]


def test_an_error_in_a_targets_own_code_names_its_package(add, tiny_model, tmp_path):
    add("toys", {"ort_basic": RAISES})
    done = diffc("compile", tiny_model, "--target", "ort-basic", "--out", tmp_path / "out")
    assert done.returncode == 70 and "ZeroDivisionError" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("diffc: this is a bug in ort_basic (toys 1.0), or in how diffc calls it")


BROKEN = {
    "raises at import": ("raise OSError('libtoy.so is missing')", "OSError: libtoy.so is missing"),
    "raises without a word": ("raise OSError", "cannot be used: OSError"),
    "is no Python": ("def (", "SyntaxError"),
    "needs what is not there": ("import no_such_runtime", "No module named 'no_such_runtime'"),
    "has no TARGET": ("", "TARGET"),
    "misses a fact": (EXAMPLE.replace('    device="cpu",', "    #"), "'device'"),
    "has an impossible fact": (
        EXAMPLE.replace('device="cpu"', 'device="tpu"'),
        "device is 'tpu', and not one of 'cpu', 'gpu', 'torch'",
    ),
    "has no facts": (EXAMPLE.replace("    facts =", "    other ="), "it has no 'facts'"),
    "misses a method": (EXAMPLE.replace("def load", "def lode"), "it has no method 'load'"),
    "has another name": (
        EXAMPLE.replace('"ort-basic"', '"ort-plain"'),
        "its facts call it 'ort-plain'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_target_is_skipped_and_refused_in_one_line(add, case):
    source, words = BROKEN[case]
    add("toys", {"ort_basic": source})
    with pytest.raises(UnavailableError) as caught:
        target("ort-basic")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "target 'ort-basic' of ort_basic (toys 1.0)" in str(caught.value)
    assert caught.value.hint == "mend or uninstall toys"
    assert list(problems()) == ["ort-basic"] and "ort-basic" in names()
    assert "ort-basic" not in targets() and "ort-cpu" in targets()


def test_compile_refuses_a_broken_target_before_the_work(add, tiny_model, tmp_path):
    add("toys", {"ort_basic": "raise OSError('libtoy.so is missing')"})
    done = diffc("compile", tiny_model, "--target", "ort-basic", "--out", tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "libtoy.so is missing" in done.stderr and not (tmp_path / "out").exists()


def test_two_targets_of_one_name_are_both_named(add):
    add("toys", {"ort_basic": EXAMPLE})
    add("games", {"other": EXAMPLE}, "[diffc.targets]\nort-basic = other\n")
    with pytest.raises(RequestError) as caught:
        target("ort-basic")
    assert "ort_basic (toys 1.0)" in str(caught.value)
    assert "other (games 1.0)" in str(caught.value)
    assert list(problems()) == ["ort-basic"]


def test_a_target_that_takes_the_name_of_ours_is_named_beside_it(add):
    add("toys", {"ort_basic": EXAMPLE}, "[diffc.targets]\nort-cpu = ort_basic\n")
    with pytest.raises(RequestError, match=r"ort_cpu \(diffc\) and ort_basic \(toys 1.0\)"):
        target("ort-cpu")


def test_help_reads_no_entry_points():
    script = (
        "import sys\nfrom importlib import metadata\n"
        "metadata.entry_points = lambda **_: sys.exit('read')\n"
        "sys.argv = ['diffc', '--help']\nfrom diffc.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_target_of_ours_states_all_its_facts():
    for name, one in targets().items():
        facts = one.facts
        assert facts.name == name
        assert facts.width_multiple("fp32") == 16
        assert facts.width_multiple("auto") == 16
        assert (facts.loader is None) == facts.runs_torch
        if facts.loader is not None:
            assert loaders.find_loader(name).__name__ == facts.loader
        assert isinstance(on_gpu(name), bool)
    assert targets()["trt"].facts.width_multiple("fp16") == 8
