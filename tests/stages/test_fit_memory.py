"""Settings that fit a memory: the first of all that do, by hand untouched, and the least."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest
from support.command import diffc_in_process as diffc
from support.quick import QUICK

import diffc as api
from diffc.data.recipe_of_model import recipe_of_model
from diffc.errors import RequestError
from diffc.models.source import find_source
from diffc.output import locked_recipe, write_lock_of
from diffc.recipe import Recipe, resolve
from diffc.stages import fit_memory as fitting
from diffc.stages import needs
from diffc.stages.finished import is_run_of, keep_request
from diffc.stages.fit_memory import candidates, fit_memory, section_at

PARAMETERS = (4_000_000, 2_000_000)
SOURCE = SimpleNamespace(denoiser=SimpleNamespace(tensors=dict))
"""Of made-up networks nothing is asked but how many tensors they have."""
ROW = 10_000_000
STAGES = ("importance", "distill", "distill-loop")


def activations(recipe: Recipe, stage: str) -> int:
    """A made-up network: bytes in proportion to the rows, a quarter with checkpointing."""
    section = section_at(recipe, fitting.SECTIONS[stage])
    rows = -(-section.batch // section.gradient_accumulation)
    if getattr(section, "by_block", "") == "on":
        return ROW * rows // 8
    return ROW * rows // (4 if getattr(section, "gradient_checkpointing", False) else 1)


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch, tmp_path):
    """Whose memory has no part for the process itself."""
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fitting, "gpus", lambda: ("a GPU",))
    for module in (fitting, needs):  # made-up networks have no pipeline around them
        monkeypatch.setattr(module, "uncut_parts", lambda *_, **__: {})


@pytest.fixture
def made_up(monkeypatch):
    def counted(_source, recipe):
        return {stage: 4 * PARAMETERS[0] + activations(recipe, stage) for stage in STAGES}

    monkeypatch.setattr(fitting, "call_bytes", counted)


def recipe_with(memory: str, **flags) -> Recipe:
    loop = {"batch": 12, "features": 0.3}
    base = {"distill": {"aim": "loop", "batch": 16, "loop": loop}, "memory": memory}
    return resolve(family="", base=base, flags=flags)


def settings(recipe: Recipe) -> list[tuple[int, bool]]:
    sections = [section_at(recipe, path) for path in fitting.SECTIONS.values()]
    checkpoints = [
        getattr(one, "gradient_checkpointing", getattr(one, "by_block", "") == "on")
        for one in sections
    ]
    return list(zip((one.gradient_accumulation for one in sections), checkpoints, strict=True))


def bytes_by_hand(recipe: Recipe, stage: str) -> int:
    """The formulas once more, of all that a stage holds."""
    dense, small = PARAMETERS
    calls = 4 * dense + activations(recipe, stage)
    if stage == "importance" and recipe.prune.importance.by_block == "on":
        return calls
    if stage == "importance":
        return max(8 * dense, 4 * dense + calls)
    return 16 * small + 4 * dense + calls


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("megabytes", [70, 78, 84, 90, 100, 110, 140, 200, 400])
def test_it_is_the_first_of_all_settings_that_fits(megabytes):
    recipe = recipe_with(f"{megabytes}MB")
    for stage, path in fitting.SECTIONS.items():
        batch = section_at(recipe, path).batch
        pieces = [count for count in (1, 2, 4, 8, 16) if count < batch] + [batch]
        option, values = "gradient_checkpointing", [False, True]
        if stage == "importance":
            option, values = "by_block", ["auto", "on"]
        every = [
            fitting._with_settings(recipe, path, {"gradient_accumulation": n, option: again})
            for again, n in itertools.product(values, pieces)
        ]
        fits = [one for one in every if bytes_by_hand(one, stage) <= megabytes * 1e6]
        if not fits:
            with pytest.raises(RequestError, match="needs at least"):
                fit_memory(SOURCE, recipe, "bench", PARAMETERS)
            return
        chosen, _ = fit_memory(SOURCE, recipe, "bench", PARAMETERS)
        place = list(fitting.SECTIONS).index(stage)
        assert settings(chosen)[place] == settings(fits[0])[place]


@pytest.mark.usefixtures("made_up")
def test_the_least_is_enough_and_one_byte_less_is_not():
    dense, small = PARAMETERS
    floor = 20 * small + 4 * dense  # of the distillation, without activations
    recipe = recipe_with(f"{floor}B")
    with pytest.raises(RequestError, match=r"B: the stage 'distill' needs at least") as refused:
        fit_memory(SOURCE, recipe, "bench", PARAMETERS)
    size = refused.value.hint.split()[1]
    least = min(bytes_by_hand(one, "distill") for one in candidates(recipe, "distill"))
    assert size == f"{-(-least // 10**6)}MB"
    fit_memory(SOURCE, recipe_with(size), "bench", PARAMETERS)
    chosen, _ = fit_memory(SOURCE, recipe_with(f"{least}B"), "bench", PARAMETERS)
    assert settings(chosen)[1] == (16, True)
    with pytest.raises(RequestError):
        fit_memory(SOURCE, recipe_with(f"{least - 1}B"), "bench", PARAMETERS)


@pytest.mark.parametrize("stage", ["data", *fitting.SECTIONS])
def test_the_same_command_again_is_no_other_request(stage, tmp_path):
    recipe = recipe_with("95MB")
    *_, fitted = candidates(recipe, stage)
    assert fitted != recipe
    model = {"name": "m", "folder": "m", "class_name": "UNet2DModel", "digest": "d"}
    write_lock_of(tmp_path, model, fitted, {"plan": "of its key"})
    keep_request(tmp_path, fitted, "asks")
    assert is_run_of(tmp_path, recipe)


def test_what_weights_alone_exceed_is_refused_without_a_count(monkeypatch):
    monkeypatch.setattr(fitting, "gpus", lambda: ("a GPU",))
    for module in (fitting, needs):  # made-up networks have no pipeline around them
        monkeypatch.setattr(module, "uncut_parts", lambda *_, **__: {})
    monkeypatch.setattr(fitting, "call_bytes", None)
    floor = 20 * PARAMETERS[1] + 4 * PARAMETERS[0]
    with pytest.raises(RequestError, match="needs at least") as refused:
        fit_memory(SOURCE, recipe_with(f"{floor - 1}B"), "bench", PARAMETERS)
    assert "comes on top" in refused.value.hint


@pytest.mark.usefixtures("made_up")
def test_what_is_set_by_hand_stays():
    by_hand = {"distill": {"gradient_accumulation": 2, "loop": {"gradient_checkpointing": False}}}
    recipe = recipe_with("95MB", **by_hand)
    chosen, notes = fit_memory(SOURCE, recipe, "bench", PARAMETERS)
    _, training, loop = settings(chosen)
    assert training == (2, True) and not loop[1] and loop[0] > 1
    assert "distill.gradient_checkpointing" in notes[0] and notes[0].startswith("to fit 95MB: ")
    with pytest.raises(RequestError, match="'distill' needs at least"):
        fit_memory(SOURCE, recipe_with("75MB", **by_hand), "bench", PARAMETERS)


@pytest.mark.usefixtures("made_up")
def test_only_the_stages_of_the_run_have_to_fit_and_room_changes_nothing():
    recipe = recipe_with("60MB")
    assert fit_memory(SOURCE, recipe, "plan", PARAMETERS)[0].distill == recipe.distill
    fitted, notes = fit_memory(SOURCE, recipe_with("40MB"), "plan", PARAMETERS)
    assert fitted.distill == recipe.distill
    assert fitted.prune.importance.by_block == "on"
    assert "prune.importance.by_block on" in notes[0]
    roomy = recipe_with("4TB")
    assert fit_memory(SOURCE, roomy, "bench", PARAMETERS) == (roomy, [])
    assert fit_memory(SOURCE, Recipe(), "bench", PARAMETERS) == (Recipe(), [])


def drawn(recipe: Recipe) -> int:
    return 4 * PARAMETERS[0] + ROW * min(recipe.data.batch, recipe.data.images)


def test_fewer_samples_are_drawn_at_a_time_where_all_have_no_room(monkeypatch):
    monkeypatch.setattr(fitting, "call_bytes", lambda _, recipe: {
        "importance": 1, "data": ROW * min(recipe.data.batch, recipe.data.images)})  # fmt: skip
    score = {"prune": {"importance": {"method": "random"}}}
    for megabytes, rows in ((1000, 32), (200, 16), (100, 8), (30, 1)):
        single = resolve(family="", base={**score, "memory": f"{megabytes}MB"}, flags={})
        chosen, notes = fit_memory(SOURCE, single, "plan", PARAMETERS)
        assert chosen.data.batch == rows and drawn(chosen) <= megabytes * 10**6
        assert 2 * rows > 32 or drawn(fitting._with_rows(chosen, 2 * rows)) > megabytes * 10**6
        assert bool(notes) == (rows < 32) and all(f"data.batch {rows}" in one for one in notes)
        assert fitting.with_settings_of(single, chosen) == chosen
    by_hand = resolve(family="", base={"memory": "100MB"}, flags={"data": {"batch": 32}})
    with pytest.raises(RequestError, match="the stage 'data' needs at least"):
        fit_memory(SOURCE, by_hand, "plan", PARAMETERS)


@pytest.mark.usefixtures("made_up")
def test_each_process_of_a_launch_works_its_share(monkeypatch):
    recipe = recipe_with("120MB")
    alone, _ = fit_memory(SOURCE, recipe, "bench", PARAMETERS)
    monkeypatch.setattr(fitting, "process_count", lambda: 4)
    shared, _ = fit_memory(SOURCE, recipe, "bench", PARAMETERS)
    assert settings(shared)[1][0] < settings(alone)[1][0]


def test_a_model_whose_parameters_are_not_known_is_refused(made_up):
    with pytest.raises(RequestError, match="is not known for this model"):
        fit_memory(SOURCE, recipe_with("1GB"), "bench", (0, 0))


def test_what_counts_as_by_hand(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("extends: sd15\ndistill: {steps: 7}\n")
    kind = {
        "family": "UNet2DConditionModel",
        "model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    }
    shipped = resolve(**kind, flags={"prune": {"ratio": None}})
    assert shipped.distill.gradient_accumulation == 4 and shipped.by_hand == set()
    own = resolve(**kind, recipe=file, flags={"prune": {"ratio": 0.2}})
    assert own.by_hand == {"distill.steps", "prune.ratio"}
    assert own.model_copy(update={"seed": 1}).by_hand == own.by_hand


@pytest.mark.parametrize("size", ["lots", "0GB", "-4GB", "24", "GB"])
def test_a_size_that_is_none_is_refused(tiny_model, tmp_path, size):
    done = diffc("compile", tiny_model, "--memory", size, "--out", tmp_path / "out")
    assert done.returncode == 2 and f"memory: {size} is no amount of memory" in done.stderr


@pytest.mark.slow
def test_a_run_says_what_it_chose_and_keeps_it(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "gpus", lambda: ())
    source = find_source(tiny_model)
    options = {**QUICK, "memory": "1TB"}
    recipe = recipe_of_model(source, None, {**options, "prune": {**QUICK["prune"], "ratio": 0.3}})
    sizes = needs.tensor_sizes(source)
    memory = fitting._StageMemory(source, 1, fitting._parameters(source, recipe), sizes)
    whole = memory.bytes_of(recipe, "distill")
    options["memory"] = f"{whole - 1}B"
    out, events = tmp_path / "out", []
    run = {"ratio": 0.3, "stop": "distill", "on_event": events.append}
    api.compile(tiny_model, out=out, options=options, **run)
    notes = [event.note for event in events if event.note and event.note.startswith("to fit")]
    assert notes == [f"to fit {whole - 1}B: distill.gradient_accumulation 2"]
    kept = locked_recipe(out)
    assert kept.distill.gradient_accumulation == 2 and kept.memory == f"{whole - 1}B"
    api.compile(tiny_model, out=tmp_path / "b", recipe=out / "recipe.lock.yaml", **run)
    assert locked_recipe(tmp_path / "b") == kept


@pytest.mark.slow
def test_a_plan_shows_it_and_too_little_is_refused(tiny_model, monkeypatch):
    monkeypatch.setattr(fitting, "gpus", lambda: ())
    roomy = json.loads(diffc("plan", tiny_model, "--memory", "1TB", "--json").stdout)["estimates"]
    most = max(one["memory_bytes"] for one in roomy["stages"])
    assert roomy["settings"] == []
    tight = next(one for one in roomy["stages"] if one["stage"] == "distill")["memory_bytes"]
    monkeypatch.setattr(fitting, "call_bytes", lambda *_: {"importance": 1, "distill": 1})
    done = diffc("plan", tiny_model, "--memory", "10MB")
    assert done.returncode == 2 and "needs at least" in done.stderr
    assert "comes on top" in done.stderr and most >= tight
