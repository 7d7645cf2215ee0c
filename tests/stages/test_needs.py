"""What stages need of memory: the figures of a plan, and the refusal before the work."""

from __future__ import annotations

import json

import pytest
from support.command import diffc_in_process as diffc
from support.quick import QUICK

from diffc.data.recipe_of_model import recipe_of_model
from diffc.errors import RequestError
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.recipe import Recipe
from diffc.stages import by_block, needs
from diffc.stages.by_block import choose_by_block, with_by_block
from diffc.stages.engine_memory import EXPORT_BYTES
from diffc.stages.estimate import training_bytes

MILLION = 1_000_000


def by_stage(recipe, calls=None, **options):
    options = {"tensor_sizes": (), **options}
    rows = needs.stage_needs(4 * MILLION, 2 * MILLION, recipe, calls or {}, **options)
    return {one.stage: one for one in rows}


def test_memory_grows_with_parameters_where_stages_hold_them():
    recipe = Recipe()
    own = {name: one.memory_bytes for name, one in by_stage(recipe, on_gpu=False).items()}
    process = needs.PROCESS_BYTES
    assert own["importance"] - process == 4 * MILLION * (4 + 4)
    assert own["distill"] - process == training_bytes(4 * MILLION, 2 * MILLION, None)
    for side, count in (("dense", 4), ("compressed", 2)):  # a small file has its weights in it
        assert own[f"export-{side}"] == EXPORT_BYTES + 3 * 4 * count * MILLION
    # what is counted are gradients with activations
    for calls in (3 * MILLION, 9 * MILLION):
        ranked = by_stage(recipe, {"importance": 4 * calls}, on_gpu=False)["importance"]
        assert ranked.memory_bytes - process == 4 * (4 * MILLION + max(4 * MILLION, calls))


def test_many_layers_leave_more_in_the_process_behind_the_repair():
    few, many = (by_stage(Recipe(), on_gpu=False, tensor_sizes=[5] * n) for n in (0, 1000))
    more = {name: many[name].memory_bytes - one.memory_bytes for name, one in few.items()}
    assert {name for name, grows in more.items() if grows == 0} == {
        "data", "importance", "prune", "repair"
    }  # fmt: skip
    assert 0 < more["distill"] == more["samples"] < more["export-dense"]
    there = [by_stage(Recipe(), on_gpu=True, tensor_sizes=[5] * n) for n in (0, 1000)]
    assert there[0]["distill"].gpu_bytes == there[1]["distill"].gpu_bytes


def test_a_gpu_has_what_its_stages_hold_and_the_machine_loads_the_weights():
    here, there = by_stage(Recipe(), on_gpu=False), by_stage(Recipe(), on_gpu=True)
    assert there["prune"] == here["prune"]  # surgery is never done on a GPU
    for name in ("importance", "distill"):
        assert there[name].memory_bytes == needs.PROCESS_BYTES + 4 * 4 * MILLION
        assert there[name].gpu_bytes == here[name].memory_bytes - needs.PROCESS_BYTES


def test_a_score_without_gradients_and_a_run_without_training_need_less():
    recipe = Recipe.model_validate(
        {"prune": {"importance": {"method": "magnitude"}}, "distill": {"steps": 0}}
    )
    stages = by_stage(recipe, on_gpu=False)
    assert "distill" not in stages
    assert stages["importance"].memory_bytes == needs.PROCESS_BYTES  # weights stay in their files


def test_an_importance_block_by_block_needs_what_was_counted():
    recipe = Recipe.model_validate({"prune": {"importance": {"by_block": "on"}}})
    row = by_stage(recipe, {"importance": 3 * MILLION}, on_gpu=False)["importance"]
    assert row.memory_bytes == needs.PROCESS_BYTES + 3 * MILLION
    row = by_stage(recipe, {"importance": 3 * MILLION}, on_gpu=True)["importance"]
    assert (row.memory_bytes, row.gpu_bytes) == (needs.PROCESS_BYTES, 3 * MILLION)


@pytest.mark.slow
def test_blocks_are_worked_alone_where_the_whole_network_has_no_room(
    tiny_model, small_machine, monkeypatch
):
    source = find_source(tiny_model)
    recipe = recipe_of_model(source, None, QUICK)
    assert choose_by_block(source, recipe)[0].prune.importance.by_block == "off"
    small_machine(int(0.9 * needs.PROCESS_BYTES))
    chosen, notes = choose_by_block(source, recipe)
    assert chosen.prune.importance.by_block == "on"
    assert "is measured block by block: with the whole network it needs about" in notes[0]
    by_hand = with_by_block(recipe, "off")
    assert choose_by_block(source, by_hand) == (by_hand, [])
    assert choose_by_block(source, chosen) == (chosen, [])
    monkeypatch.setattr(by_block, "process_count", lambda: 2)
    assert choose_by_block(source, recipe)[0].prune.importance.by_block == "off"


def test_blocks_that_learn_alone_have_a_row_and_surgery_counts_what_it_cuts():
    recipe = Recipe.model_validate({"distill": {"steps": 0, "block_local": {"steps": 2}}})
    rows = by_stage(recipe, {"prune": 3 * MILLION, "distill-blocks": 5 * MILLION}, on_gpu=True)
    assert rows["prune"].memory_bytes == needs.PROCESS_BYTES + 3 * MILLION
    assert rows["distill-blocks"].memory_bytes == needs.PROCESS_BYTES
    assert rows["distill-blocks"].gpu_bytes == 5 * MILLION
    assert by_stage(recipe, on_gpu=False)["prune"].memory_bytes == (
        needs.PROCESS_BYTES + 4 * 2 * MILLION
    )


def test_a_model_that_draws_its_samples_is_in_memory_and_one_that_is_given_them_is_not(tmp_path):
    calls = {"data": 3 * MILLION}
    for on_gpu in (False, True):
        row = by_stage(Recipe(), calls, on_gpu=on_gpu)["data"]
        own = row.gpu_bytes if on_gpu else row.memory_bytes - needs.PROCESS_BYTES
        assert own == 4 * 4 * MILLION + 3 * MILLION
    assert by_stage(Recipe(), calls, on_gpu=True)["data"].memory_bytes == (
        needs.PROCESS_BYTES + 4 * 4 * MILLION
    )
    images = Recipe.model_validate({"data": {"source": str(tmp_path)}})
    row = by_stage(images, calls, on_gpu=False)["data"]
    assert row.memory_bytes == needs.PROCESS_BYTES + 3 * MILLION


@pytest.mark.slow
def test_data_without_room_for_the_weights_are_refused_whatever_the_importance(
    tiny_model, small_machine
):
    """The importance may go block by block, and the samples are still drawn by the whole model."""
    source = find_source(tiny_model)
    recipe = recipe_of_model(source, None, QUICK)
    small_machine(int(0.9 * needs.PROCESS_BYTES))
    chosen = choose_by_block(source, recipe)[0]
    assert chosen.prune.importance.by_block == "on"
    with pytest.raises(RequestError, match="'data' needs about") as refused:
        needs.check_memory(source, chosen, "plan")
    assert "a .safetensors that has samples" in refused.value.hint


def test_low_rank_additions_leave_the_student_its_weights_alone():
    loop = {"aim": "loop", "loop": {"features": 0.0}, "low_rank": {"rank": 8}}
    counted = {"distill": 3 * MILLION, "distill-loop": MILLION}
    rows = by_stage(Recipe.model_validate({"distill": loop}), counted, on_gpu=True)
    assert rows["distill"].gpu_bytes == 4 * (4 + 2) * MILLION + 3 * MILLION
    assert rows["distill-loop"].gpu_bytes == 4 * 2 * MILLION + MILLION


def test_stages_without_gradients_hold_weights_on_a_gpu_alone():
    recipe = Recipe.model_validate({"distill": {"aim": "loop"}})
    counted = {"repair": 5 * MILLION, "samples": 3 * MILLION, "trajectories": MILLION}
    here, there = (by_stage(recipe, counted, on_gpu=on_gpu) for on_gpu in (False, True))
    dense, both = 4 * 4 * MILLION, 4 * (4 + 2) * MILLION
    for name, weights in (("repair", 0), ("samples", 0), ("trajectories", dense)):
        assert here[name].memory_bytes == needs.PROCESS_BYTES + weights + counted[name]
    for name, weights in (("repair", both), ("samples", both), ("trajectories", dense)):
        assert there[name].gpu_bytes == weights + counted[name]
    off = Recipe.model_validate({"repair": {"mode": "off"}})
    assert "repair" not in by_stage(off, on_gpu=False)


@pytest.mark.slow
def test_a_stage_that_works_fewer_rows_at_a_time_is_not_refused(tiny_model, small_machine):
    source = find_source(tiny_model)
    recipe = recipe_of_model(source, None, {**QUICK, "distill": {"steps": 0}})
    small_machine(10**12)
    needs.check_memory(source, recipe, "distill")
    assert needs.first_lack(source, recipe, ["samples", "repair"]) is None
    small_machine(1000)
    assert needs.first_lack(source, recipe, ["samples"]).stage == "samples"
    with pytest.raises(RequestError, match="'data' needs"):
        needs.check_memory(source, recipe, "distill")
    magnitude = {**QUICK["prune"], "importance": {"method": "magnitude"}}
    light = recipe_of_model(source, None, {**QUICK, "prune": magnitude, "distill": {"steps": 0}})
    of_light = needs.stage_needs(0, 0, light, {}, tensor_sizes=(), on_gpu=False)
    rows = {one.stage: one.memory_bytes for one in of_light}
    small_machine(max(rows["importance"], rows["prune"]) + 10**6)
    needs.check_memory(source, light, "prune")


def test_a_student_of_loops_has_a_row_of_its_own():
    loop = {"distill": {"aim": "loop", "loop": {"features": 0.0}}}
    own = by_stage(Recipe.model_validate(loop), on_gpu=True)
    assert own["distill-loop"].gpu_bytes == 20 * 2 * MILLION
    loop["distill"]["loop"]["features"] = 0.3  # of the dense model, which is there too then
    seen = by_stage(Recipe.model_validate(loop), on_gpu=True)["distill-loop"]
    assert seen.gpu_bytes == 20 * 2 * MILLION + 4 * 4 * MILLION
    assert seen.memory_bytes == needs.PROCESS_BYTES + 4 * 4 * MILLION


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(needs, "gpus", lambda: ())

    def of(total):
        monkeypatch.setattr(needs, "host_memory", lambda: (total, total))

    return of


@pytest.mark.slow
def test_a_stage_without_room_is_refused_with_the_numbers(tiny_model, small_machine):
    source = find_source(tiny_model)
    recipe = recipe_of_model(source, None, QUICK)
    count = sum(value.numel() for value in load_denoiser(source).parameters())
    small_machine(2 * needs.PROCESS_BYTES)
    needs.check_memory(source, recipe, "bench")
    small_machine(int(0.9 * (needs.PROCESS_BYTES + 8 * count)) - 10_000)
    with pytest.raises(RequestError, match=r"'importance' needs about 33\d.* this machine has"):
        needs.check_memory(source, recipe, "plan")


@pytest.mark.slow
def test_the_command_refuses_it_before_the_work_and_writes_nothing(
    tiny_model, tmp_path, small_machine
):
    small_machine(1000)
    done = diffc("compile", tiny_model, "--ratio", "0.3", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "the stage 'data' needs about" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_plan_names_every_stage(tiny_model):
    shown = json.loads(diffc("plan", tiny_model, "--ratio", "0.3", "--json").stdout)
    stages = shown["estimates"]["stages"]
    exports = ["export-dense", "export-compressed"]
    engines = ["build-ort-cpu-dense", "build-ort-cpu-compressed"]
    measured = ["bench-ort-cpu", "frontier-ort-cpu", "explain-ort-cpu"]
    names = ["data", "importance", "prune", "repair", "distill", "samples", *exports]
    names += [*engines, *measured]
    assert [one["stage"] for one in stages] == names
    text = diffc("plan", tiny_model, "--ratio", "0.3").stdout
    assert "stage (estimates)" in text and all(name in text for name in names)
