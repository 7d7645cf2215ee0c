"""A batch that memory has no room for is halved; one row without room is one line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from support.pipelines import save_ddpm, save_sd
from support.runs import compile_quickly

import diffc.data.latents as latents
import diffc.data.synthetic as synthetic
import diffc.measure.samples as samples
from diffc.data.batches import run_in_batches
from diffc.data.clean import CleanSet
from diffc.errors import OutOfMemory
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.families.examples import example_inputs
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.prune.importance import importance
from diffc.prune.importance.base import Subject
from diffc.recipe import ImportanceSection
from diffc_export.events import Progress, drain
from diffc_runtime.machine.out_of_memory import is_out_of_memory

GPU = "CUDA out of memory. Tried to allocate 20.00 GiB"
CPU = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"


def room(rows, limit, words=GPU):
    """Fail as torch does where ``rows`` are more than ``limit``."""
    if rows > limit:
        raise torch.OutOfMemoryError(words) if words == GPU else RuntimeError(words)


def limited(function, limit):
    """``guided`` with room for ``limit`` samples."""

    def guided(*args, **more):
        call = function(*args, **more)

        def inner(x, t):
            room(len(x), limit)
            return call(x, t)

        return inner

    return guided


@pytest.mark.parametrize("words", [GPU, CPU])
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_every_row_is_done_once_and_in_order(limit, words):
    def work(rows):
        yield Progress(rows.start, 10)
        room(len(rows), limit, words)
        return list(rows)

    parts = drain(run_in_batches(10, 8, work, "counting"))
    assert [i for part in parts for i in part] == list(range(10))
    assert max(map(len, parts)) <= limit


@pytest.mark.slow
def test_no_room_for_one_row_says_what_to_lower():
    def work(rows):
        yield Progress(0)
        room(len(rows), 0)
        return rows

    with pytest.raises(OutOfMemory) as caught:
        drain(run_in_batches(4, 4, work, "sampling the dense model"))
    said = str(caught.value)
    assert said.startswith("out of ") and "while sampling the dense model, one at a time" in said
    assert "20.0 GiB asked for" in said and "--resolution" in caught.value.hint
    assert caught.value.asked == 20 << 30 and caught.value.exit_code == 2


def test_other_errors_pass_through():
    def work(rows):
        yield Progress(0)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        drain(run_in_batches(4, 4, work, "counting"))
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("no"))


@pytest.mark.slow
def test_sampled_data_do_not_depend_on_the_room(tmp_path, monkeypatch):
    model = save_ddpm(tmp_path / "m")
    compile_quickly(model, tmp_path / "whole", "plan")
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(synthetic, "guided_call", limited(synthetic.guided_call, 1))
    compile_quickly(model, tmp_path / "halved", "plan")
    one, other = (
        load_file(tmp_path / name / ".diffc" / "clean.safetensors")["sample"]
        for name in ("whole", "halved")
    )
    assert torch.allclose(one, other, atol=2e-2)  # bfloat16, of other batches


def test_no_room_for_one_sample_is_one_line_from_the_chain(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "guided_call", limited(synthetic.guided_call, 0))
    with pytest.raises(OutOfMemory, match="while sampling the dense model, one at a time"):
        compile_quickly(save_ddpm(tmp_path / "m"), tmp_path / "o", "plan")


@pytest.mark.slow
def test_samples_and_their_decoding_are_halved(tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cat\na blue dog\n")
    load, sizes = latents.load_vae, []

    def load_vae(source):
        vae = load(source)
        decode = vae.decode

        def one_at_a_time(x, *args, **more):
            room(len(x), 1)
            sizes.append(len(x))
            return decode(x, *args, **more)

        vae.decode = one_at_a_time
        return vae

    monkeypatch.setattr(latents, "load_vae", load_vae)
    monkeypatch.setattr(samples, "guided_call", limited(samples.guided_call, 2))
    report = compile_quickly(
        save_sd(tmp_path / "sd"), tmp_path / "o", "distill", data={"prompts": str(prompts)}
    )
    assert report.quality["ssim"]["n"] == 4 and set(sizes) == {1}


def test_a_model_that_memory_has_no_room_for_is_one_line(tmp_path, monkeypatch):
    from diffc.models import denoiser

    def no_room(source):
        raise MemoryError

    monkeypatch.setattr(denoiser, "load_denoiser", no_room)
    with pytest.raises(OutOfMemory, match="while doing the stage 'data'"):
        compile_quickly(save_ddpm(tmp_path / "m"), tmp_path / "o", "plan")


class Cramped:
    """A family whose calls have room for ``limit`` rows."""

    def __init__(self, known, limit):
        self.known, self.limit = known, limit

    def call(self, model, inputs):
        room(len(inputs["sample"]), self.limit)
        return self.known.call(model, inputs)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    scheduler = DDPMScheduler(num_train_timesteps=100)
    source = find_source(save_ddpm(tmp_path_factory.mktemp("importance") / "m", scheduler))
    model, known = load_denoiser(source), family(source.class_name)
    specs = known.specs(source.config)
    groups = known.groups(model, example_inputs(specs, source.config))
    clean = CleanSet(torch.randn(6, 1, 16, 16), {}, "random")
    denoiser = denoiser_of(model, known, source.scheduler, specs)
    return lambda limit: Subject(replace(denoiser, family=Cramped(known, limit)), clean, groups)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["diff-pruning", "taylor"])
def test_importance_does_not_depend_on_the_room(subject, method):
    options = ImportanceSection(method=method, passes=2, batch=4, grid=4, curve_images=4)
    whole = drain(importance(subject(100), options, 0)).scores
    halved = drain(importance(subject(1), options, 0)).scores
    for name, scores in whole.items():
        assert np.allclose(scores, halved[name], rtol=1e-3, atol=1e-12), name


@pytest.mark.slow
def test_importance_without_room_for_one_row_is_one_line(subject):
    options = ImportanceSection(passes=2, batch=4, grid=4, curve_images=4)
    with pytest.raises(OutOfMemory, match="while measuring importance, one at a time"):
        drain(importance(subject(0), options, 0))


def test_gradients_of_earlier_passes_are_never_counted_twice(subject):
    """Where gradients add up over passes, a pass that fails on the way cannot be repeated."""
    options = ImportanceSection(method="taylor", batch=4)
    cramped = subject(100)
    calls, denoiser = [], cramped.denoiser

    class Filling:
        def call(self, model, inputs):
            calls.append(len(inputs["sample"]))
            room(len(inputs["sample"]), 100 if len(calls) < 3 else 2)
            return denoiser.family.call(model, inputs)

    with pytest.raises(OutOfMemory, match="while measuring importance"):
        filling = replace(cramped, denoiser=replace(denoiser, family=Filling()))
        drain(importance(filling, options, 0))
