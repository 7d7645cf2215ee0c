"""The time of an image has in it what the job has: guidance, conditions, the decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.onnx_folder import SCHEDULER, write_handmade_folder

from diffc.errors import InputError
from diffc.measure import compare
from diffc.measure.compare import measure_loop
from diffc.measure.engines import MeasureOptions
from diffc.measure.latency import LatencyOptions
from diffc.measure.loop import LoopOptions, TimedLoop, decode_with
from diffc.recipe import resolve
from diffc.stages.images import ImageInput, image_inputs, is_latent, loop_options
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions, Range
from diffc_export.targets.engine import EngineInfo
from diffc_export.targets.fake import FakeEngine
from diffc_export.targets.onnx_file import InputSpec

WORDS = InputSpec("encoder_hidden_states", (2, 3))
LATENT = InputSpec("sample", (4, 4, 4), kind="sample")
TIME = InputSpec("timestep", (), kind="timestep")
QUICK = LatencyOptions(rounds=3, seconds=0.0, warmup_seconds=0.0)


def described(inputs, output, batches) -> EngineInfo:
    profiles = tuple(
        {spec.name: Range(*[(batch, *spec.shape)] * 3) for spec in inputs} for batch in batches
    )
    return EngineInfo(
        target="fake", versions={}, device={}, inputs=tuple(inputs), outputs=(output,),
        precision_asked="fp32", precision_found="fp32", precision_shares={}, profiles=profiles,
        source={"scheduler": SCHEDULER, "scaling_factor": 0.5},
    )  # fmt: skip


class Recorder:
    """A runner that keeps what it was called with."""

    def __init__(self, info: EngineInfo, value: float = 0.0) -> None:
        self.info, self.value, self.calls = info, value, []

    def __call__(self, inputs):
        self.calls.append({name: array.copy() for name, array in inputs.items()})
        shape = (len(next(iter(inputs.values()))), *self.info.outputs[0].shape)
        return {self.info.outputs[0].name: np.full(shape, self.value, np.float32)}

    def close(self) -> None:
        pass


def denoiser(*batches: int) -> Recorder:
    output = InputSpec("out_sample", LATENT.shape)
    return Recorder(described([LATENT, TIME, WORDS], output, batches))


GUIDED = LoopOptions(
    steps=3, guidance=7.0, latent=True,
    conditions={WORDS.name: np.full(WORDS.shape, 5.0, np.float32)},
    unconditional={WORDS.name: np.full(WORDS.shape, 9.0, np.float32)},
)  # fmt: skip


@pytest.mark.parametrize(("batches", "calls", "rows"), [((1,), 2, 1), ((1, 2), 1, 2), ((4,), 1, 4)])
def test_guidance_doubles_the_rows_of_a_step(batches, calls, rows):
    runner = denoiser(*batches)
    loop = TimedLoop(runner, GUIDED)
    loop()
    loop()
    assert len(runner.calls) == 2 * GUIDED.steps * calls
    facts = loop.facts()
    assert (facts["calls_per_step"], facts["rows_per_call"]) == (calls, rows)
    assert (facts["guidance"], facts["sampler"], facts["steps"]) == (7.0, "ddim", 3)
    given = {float(call[WORDS.name][i].flat[0]) for call in runner.calls for i in range(rows)}
    assert given >= {5.0, 9.0}, "conditions and null conditions, none of them zeros"


def test_onnx_runtime_is_called_with_the_rows_that_there_are(tmp_path):
    """As a bundle calls it: one row of an engine for batch 1 and 4 is not padded to 4."""
    onnx = write_handmade_folder(tmp_path / "onnx")
    drain(target("ort-cpu").build(onnx, BuildOptions(batch=(2, 4)), tmp_path / "e"))
    runner = target("ort-cpu").load(tmp_path / "e")
    loop = TimedLoop(runner, LoopOptions(steps=2, batch=1))
    loop()
    assert loop.facts()["rows_per_call"] == 1
    with pytest.raises(InputError):  # a call that is timed alone keeps to what was built
        runner({"sample": np.zeros((1, 1, 8, 8), np.float32), "timestep": np.zeros(1, np.int64)})


def test_without_null_conditions_a_step_is_one_call():
    runner = denoiser(1)
    TimedLoop(runner, replace(GUIDED, guidance=1.0, unconditional={}))()
    assert len(runner.calls) == GUIDED.steps
    assert all((call[WORDS.name] == 5.0).all() for call in runner.calls)


def test_the_decoder_is_called_once_for_the_images():
    pixels = InputSpec("pixels", (3, 8, 8))
    decoder = Recorder(described([replace(LATENT, name="latent")], pixels, (1, 2)), 0.25)
    settings = {"scheduler": SCHEDULER, "latent": {"scale": 0.5, "shift": 0.0}}
    loop = TimedLoop(denoiser(2), replace(GUIDED, settings=settings), decode_with(decoder))
    loop()
    assert len(decoder.calls) == 1 and decoder.calls[0]["latent"].shape == (1, 4, 4, 4)


@pytest.fixture
def out(tmp_path):
    """An output folder with a fake target's engines."""
    folder = tmp_path / "OUT"
    for side in ("dense", "compressed"):
        onnx = write_handmade_folder(folder / "onnx" / side, 8)
        drain(target("fake").build(onnx, BuildOptions(), folder / "engines" / "fake" / side))
    return folder


def recipe(**sections):
    return resolve(family="UNet2DModel", flags=sections)


def save_clean(out: Path, **tensors) -> None:
    (out / ".diffc").mkdir(exist_ok=True)
    save_file(tensors, out / ".diffc" / "clean.safetensors")


INFO = described([LATENT, TIME, WORDS], InputSpec("out_sample", LATENT.shape), (1,))


def test_an_images_conditions_are_the_calibration_sets(out):
    rows = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    null = {f"null.{WORDS.name}": np.full(WORDS.shape, 9.0, np.float32)}
    save_clean(out, sample=np.zeros((2, 4, 4, 4), np.float32), encoder_hidden_states=rows, **null)
    found = image_inputs(out, recipe(data={"guidance": 7.5}), INFO)
    np.testing.assert_array_equal(found.conditions[WORDS.name], rows[0])
    assert (found.unconditional[WORDS.name] == 9.0).all()
    assert (found.guidance, found.notes) == (7.5, ())
    other = image_inputs(out, recipe(data={"guidance": 3}), INFO)
    assert other.digest != found.digest, "a stage's key holds it"


def test_without_null_conditions_there_is_no_guidance(out):
    save_clean(out, encoder_hidden_states=np.ones((2, 2, 3), np.float32))
    found = image_inputs(out, recipe(data={"guidance": 7.5}), INFO)
    assert (found.guidance, dict(found.unconditional), found.notes) == (1.0, {}, ())


def test_without_the_calibration_set_the_row_says_so(out):
    found = image_inputs(out, recipe(), INFO)
    assert found.guidance == 1.0 and not found.conditions
    assert "without guidance: clean.safetensors is not in" in found.notes[0]
    assert found.notes[1] == "zeros for encoder_hidden_states"


def test_a_model_without_conditions_has_nothing_to_say(out):
    found = loop_options(out, recipe(), "fake", "compressed")
    assert (found.guidance, found.notes, found.latent, found.decoder) == (1.0, (), False, None)
    assert found.settings["sampler"] == "ddim"
    assert ImageInput(found, found).keyed()["compressed"]["decoder"] is None


def test_latents_without_a_decoder_are_said_to_be_without_decoding(out):
    assert is_latent(out, INFO), "four channels are no image"
    (out / "model" / "vqvae").mkdir(parents=True)
    (out / "model" / "vqvae" / "config.json").write_text("{}")
    found = loop_options(out, recipe(), "fake", "compressed")
    assert found.latent and "without decoding: fake has no engine of a decoder" in found.notes[0]


def loop_of(out, **changes):
    folders = [out / "engines" / "fake" / side for side in ("dense", "compressed")]
    asked = replace(loop_options(out, recipe(), "fake", "compressed"), **changes)
    return drain(measure_loop(*folders, MeasureOptions(latency=QUICK, loop=asked)))


def test_an_images_result_says_what_it_is_of(out):
    found = loop_of(out, steps=3, latent=True)
    assert found.details["decoded"] is False and found.details["sampler"] == "ddim"
    assert found.details["steps"] == 3
    assert found.details["reference"] == {"sampler": "ddim", "steps": 3, "guidance": 1.0}
    assert found.dense.calls_per_s is None
    assert found.dense.images_per_s == pytest.approx(1e3 / found.dense.latency_ms.p50)
    assert found.efficiency is None, "MACs are of the denoiser alone"


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"steps": 5000}, "steps must be a whole number from 1 to 1000"),
     ({"absent": "the runtime has no sampler for X"}, "the runtime has no sampler for X")],
)  # fmt: skip
def test_what_cannot_be_sampled_is_absent_with_its_reason(out, changes, words):
    found = loop_of(out, **changes)
    assert words in found.absent and found.speedup is None


def test_values_that_are_no_numbers_are_a_reason_not_a_traceback(out, monkeypatch):
    call = FakeEngine.__call__
    monkeypatch.setattr(
        FakeEngine, "__call__", lambda self, x: {k: v * np.nan for k, v in call(self, x).items()}
    )
    assert "not numbers" in loop_of(out, steps=2).absent


def test_a_decoder_that_does_not_load_is_left_out_and_named(out, monkeypatch):
    from diffc.errors import UnavailableError

    class Broken:
        def load(self, folder, threads=None):
            raise UnavailableError("no kernel for it")

    monkeypatch.setattr(compare, "target", lambda name: Broken())
    found = loop_of(out, steps=2, latent=True, decoder=out / "engines" / "fake" / "dense")
    assert found.details["decoded"] is False
    assert "without decoding: no kernel for it" in found.details["notes"]
