"""--precision auto, and what each target has of its own."""

from __future__ import annotations

import shutil

import pytest
import yaml
from support.reports import find_part, rows_of
from typer.testing import CliRunner

import diffc
from diffc.cli.app import app
from diffc.errors import CheckFailed, RequestError, UnavailableError
from diffc.measure.results import Parity, PrecisionTry
from diffc.measure.statistics import Ratio
from diffc.recipe import Recipe
from diffc.stages.precision import precision_folder, precision_stage
from diffc.stages.precision_auto import best_precision
from diffc_export.targets import target


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def out(compiled, compiled_cache, tmp_path):
    """The compiled tiny model's folder, as if copied to a machine that only finishes it.

    Its tests share a cache: what one has built and measured, the next need not.
    """
    return shutil.copytree(compiled[0], tmp_path / "out")


def lock(out):
    return yaml.safe_load((out / "recipe.lock.yaml").read_text())["recipe"]["build"]


def tried(precision, passed=True):
    verdict = Parity(max_abs=0, rel_l2=0, passed=passed, tolerance=1, reason="" if passed else "no")
    return PrecisionTry(precision=precision, parity={"dense": verdict, "compressed": verdict})


def ratios(seconds, noise=0.02):
    """Ratios as if measured: the interval is ``noise`` to both sides."""

    def of(numerator, denominator):
        found = seconds[numerator] / seconds[denominator]
        span = (found * (1 - noise), found * (1 + noise))
        return Ratio(found, span, span, 30)

    return of


@pytest.mark.parametrize(
    ("seconds", "failing", "expected"),
    [
        ({"fp32": 1.0, "bf16": 0.5, "int8": 0.4}, (), "int8"),
        ({"fp32": 1.0, "bf16": 0.5, "int8": 0.495}, (), "bf16"),  # within the noise of bf16
        ({"fp32": 1.0, "bf16": 0.5, "int8": 0.4}, ("int8",), "bf16"),
        ({"fp32": 1.0, "bf16": 1.2, "int8": 1.1}, (), "fp32"),  # slower is never offered
        ({"fp32": 1.0, "bf16": 0.99, "int8": 1.5}, (), "fp32"),
        ({"fp32": 1.0, "bf16": 0.5}, ("fp32",), "bf16"),
    ],
)
def test_the_rule(seconds, failing, expected):
    tries = [tried(precision, precision not in failing) for precision in seconds]
    assert best_precision(tries, ratios(seconds)) == expected


def test_nothing_that_fails_parity_is_best_precision():
    with pytest.raises(CheckFailed, match="no precision passes parity"):
        best_precision([tried("fp32", False)], ratios({"fp32": 1.0}))


@pytest.mark.slow
def test_what_was_measured_decides(out):
    done = run("build", out, "--target", "openvino", "--precision", "auto", "--quiet")
    assert done.exit_code == 0, done.output
    report = diffc.Report.read(out)
    (choice,) = report.choices
    tries = {one.precision: one for one in choice.tries}
    assert tries["fp32"].over_fp32.median == 1
    assert {"bf16", "int8"} & set(tries)
    for one in tries.values():
        assert (one.latency_ms is None) == (one.absent is not None)
        if one.absent is None and one.precision != "fp32":
            assert 0.5 < one.ssim["compressed"].mean <= 1 and one.ssim["dense"].n == 8
    faster = [p for p, one in tries.items() if one.over_fp32 and one.over_fp32.ci95[0] > 1]
    assert choice.chosen in (*faster, "fp32")
    engine = (out / "engines/openvino/compressed/engine.json").read_text()
    assert f'"precision_asked": "{choice.chosen}"' in engine
    assert any("(taken)" in row[0] for row in rows_of(find_part(report, "Precision on")))
    for name in ("report.md", "report.html"):
        text = (out / name).read_text()
        assert "Precision on openvino" in text and "chosen by measuring" in text


@pytest.mark.slow
def test_a_choice_is_forgotten_when_a_precision_is_named(out):
    assert run("build", out, "--target", "openvino", "--precision", "auto", "-q").exit_code == 0
    assert run("build", out, "--target", "openvino", "--precision", "fp32", "-q").exit_code == 0
    assert diffc.Report.read(out).choices == []


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("openvino", "int8", "int8-asymmetric"),
        ("openvino", "fp32", "fp32"),
        ("trt", "int8", "int8"),
        ("trt-rtx", "int8", "int8"),
        ("trt", "fp8", "fp8"),
    ],
)
def test_each_target_gets_the_file_that_it_takes(name, precision, expected):
    assert precision_folder(name, precision) == expected


@pytest.mark.slow
def test_int8_for_two_targets_is_two_files(out):
    for name, folder in (("openvino", "int8-asymmetric"), ("trt-rtx", "int8")):
        if not target(name).status().buildable:
            pytest.skip(f"no {name} here")
        recipe = Recipe(build={"target": [name], "precision": "int8", "threads": 2})
        stage = precision_stage(out, recipe, name, "dense")
        assert stage.places == {"dense": f"onnx/{folder}/dense"}
        assert stage.name == f"precision-{folder}-dense"


def test_a_target_that_does_not_run_here_cannot_be_measured(out, monkeypatch):
    from diffc_export.targets import target
    from diffc_export.targets.base import Status

    found = type(target("trt-rtx"))
    status = Status(True, True, False, "no NVIDIA driver here")
    monkeypatch.setattr(found, "status", lambda _self: status)
    done = run("build", out, "--target", "trt-rtx", "--precision", "auto")
    assert isinstance(done.exception, UnavailableError)
    assert "--precision auto measures engines" in str(done.exception)


@pytest.mark.slow
def test_each_target_keeps_what_it_was_built_with(out):
    done = run("build", out, "--target", "openvino", "--batch", "1,2", "--threads", "1", "-q")
    assert done.exit_code == 0, done.output
    assert lock(out)["target"] == ["ort-cpu", "openvino"]
    assert lock(out)["batch"] == [1]
    assert lock(out)["each"]["openvino"]["batch"] == [1, 2]
    assert run("bench", out, "--explain", "off", "--frontier", "off", "-q").exit_code == 0
    report = diffc.Report.read(out)
    assert [(t.target, t.batch) for t in report.targets] == [
        ("ort-cpu", 1), ("openvino", 1), ("openvino", 2)
    ]  # fmt: skip
    stages = {stage.name: stage.cached for stage in report.stages}
    assert stages["build-openvino-dense"] and stages["build-ort-cpu-dense"]


def test_a_bad_value_for_one_target_is_refused(out):
    before = lock(out)
    done = run("build", out, "--target", "openvino", "--batch", "0")
    assert isinstance(done.exception, RequestError)
    assert "has a size below 1" in str(done.exception)
    assert lock(out) == before
