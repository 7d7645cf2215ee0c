"""Parity: right engines pass; wrong, blank and not-a-number ones never do."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.onnx_folder import write_handmade_folder

from diffc.errors import InputError
from diffc.measure.parity import TOLERANCE, judge_outputs, measure_parity
from diffc_export.events import drain
from diffc_export.targets import target


@pytest.fixture
def runner(engines):
    pytest.importorskip("onnxruntime")
    return target("ort-cpu").load(engines("ort-cpu", batch=(3,))["dense"])


@pytest.fixture
def reference(folders):
    return folders["dense"] / "reference.safetensors"


def test_right_engine_passes_whatever_its_batch(runner, reference):
    found = drain(measure_parity(runner, reference))
    assert found.passed and found.reason == ""
    assert found.rel_l2 < 1e-5 and found.trajectory_rel_l2 < 1e-5 and found.max_abs < 1e-4


def test_every_batch_that_was_built_for_is_compared(engines, reference):
    """Each may have kernels of its own: one that is wrong alone is found, and named."""
    pytest.importorskip("onnxruntime")
    made = target("ort-cpu").load(engines("ort-cpu", batch=(1, 4))["dense"])
    assert drain(measure_parity(made, reference)).passed

    class WrongAtFour:
        info = made.info

        def __call__(self, inputs):
            factor = np.float32(1.0 if len(inputs["sample"]) == 1 else 1.1)
            return {name: array * factor for name, array in made(inputs).items()}

    found = drain(measure_parity(WrongAtFour(), reference))
    assert not found.passed and found.reason.startswith("at batch 4: relative error")
    assert found.trajectory_rel_l2 < 1e-5  # which is run at the smallest


def test_another_models_engine_fails(runner, tmp_path):
    other = write_handmade_folder(tmp_path / "other", channels=16, seed=9)
    found = drain(measure_parity(runner, other / "reference.safetensors"))
    assert not found.passed
    assert "relative error" in found.reason


def _changed(runner, change):
    class Changed:
        info = runner.info

        def __call__(self, inputs):
            return {name: change(array) for name, array in runner(inputs).items()}

    return Changed()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y * np.nan, "NaN"),
        (lambda y: y + np.float32(np.inf), "infinity"),
        (np.zeros_like, "zero"),
        (np.ones_like, "constant"),
        (lambda y: y * np.float32(1.01), "relative error"),
    ],
)
def test_broken_outputs_fail(runner, reference, change, words):
    found = drain(measure_parity(_changed(runner, change), reference))
    assert not found.passed
    assert words in found.reason
    assert found.model_dump_json()


@pytest.mark.parametrize("precision", sorted(TOLERANCE))
@pytest.mark.parametrize("value", [np.nan, 0.0, 1.0])
def test_blank_output_fails_at_every_precision(precision, value):
    expected = np.random.default_rng(0).standard_normal((4, 1, 8, 8))
    found = judge_outputs(np.full_like(expected, value), expected, None, None, precision)
    assert not found.passed


def test_one_bad_level_among_many_is_found():
    expected = np.random.default_rng(0).standard_normal((8, 1, 8, 8))
    expected[0] *= 1e-3  # a level whose output is small
    found = expected.copy()
    found[0] *= 1.5
    assert not judge_outputs(found, expected, None, None, "fp16").passed
    assert "noise level 0" in judge_outputs(found, expected, None, None, "fp16").reason


def test_trajectory_that_drifts_fails():
    expected = np.random.default_rng(0).standard_normal((2, 1, 8, 8))
    end = expected[:1]
    good = judge_outputs(expected, expected, end * 1.002, end, "fp32")
    bad = judge_outputs(expected, expected, end * 1.004, end, "fp32")
    assert good.passed and not bad.passed
    assert "after the trajectory" in bad.reason


def test_tolerances_are_those_documented():
    import diffc.measure.parity as module

    for precision, tolerance in TOLERANCE.items():
        line = next(li for li in module.__doc__.splitlines() if li.strip().startswith(precision))
        assert float(line.split()[1]) == tolerance


def test_missing_and_damaged_references_are_named(runner, reference):
    tensors = load_file(reference)
    del tensors["input.timestep"]
    save_file(tensors, reference)
    with pytest.raises(InputError, match=r"no 'input\.timestep'"):
        drain(measure_parity(runner, reference))
    reference.write_bytes(b"junk")
    with pytest.raises(InputError, match="is damaged"):
        drain(measure_parity(runner, reference))
    reference.unlink()
    with pytest.raises(InputError, match="is missing"):
        drain(measure_parity(runner, reference))
