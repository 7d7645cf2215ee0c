"""What engines need of memory: by the files on the disk, and by what must hold of any network."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffc.models.source import find_source
from diffc.recipe import Recipe
from diffc.stages import engine_memory
from diffc.stages.engine_memory import (
    EXPORT_BYTES,
    engine_needs,
    export_bytes,
    graph_bytes,
    is_whole,
)
from diffc.stages.needs import stage_needs, stages_until
from diffc_export import targets
from diffc_export.onnx import weights
from diffc_export.onnx.export import export_onnx
from diffc_export.specs import TensorSpec

MILLION = 1_000_000
BOTH = Recipe.model_validate({"build": {"target": ["ort-cpu", "openvino"]}})
LARGE = (300 * MILLION, 200 * MILLION)
"""Parameters of networks whose weights lie apart from the graph."""


def rows_of(recipe: Recipe, sizes=LARGE, calls=None) -> dict[str, int]:
    return dict(engine_needs(*sizes, recipe, calls or {}))


def test_every_stage_of_a_target_has_a_row_in_the_order_of_the_run():
    wanted = [
        f"{kind}-{name}{side}"
        for name in ("ort-cpu", "openvino")
        for kind, sides in (
            ("build", ("-dense", "-compressed")),
            ("bench", ("",)),
            ("frontier", ("",)),
            ("explain", ("",)),
        )
        for side in sides
    ]
    assert list(rows_of(BOTH)) == wanted
    quick = Recipe.model_validate({"measure": {"explain": "off", "frontier": "off"}})
    assert list(rows_of(quick))[2:] == ["bench-ort-cpu"]
    stages = [one.stage for one in stage_needs(*LARGE, BOTH, {}, on_gpu=False)]
    assert stages[: stages.index("export-dense")] == [
        "data", "importance", "prune", "repair", "distill", "samples"
    ]  # fmt: skip
    assert stages[stages.index("export-compressed") + 1 :] == wanted


def test_both_engines_are_open_while_they_are_measured_and_torch_beside_them():
    times = targets.target("ort-cpu").facts.weight_copies.one
    dense, small = (4 * count for count in LARGE)
    rows = rows_of(BOTH, calls={"bench": 7 * MILLION})
    assert rows["build-ort-cpu-dense"] == EXPORT_BYTES + round(times * dense)
    both = EXPORT_BYTES + round(times * (dense + small))
    assert rows["bench-ort-cpu"] == both + 2 * 7 * MILLION
    assert rows["bench-openvino"] - rows_of(BOTH)["bench-openvino"] == 7 * MILLION
    for stage in ("frontier-ort-cpu", "explain-ort-cpu"):
        assert rows[stage] == rows["bench-ort-cpu"] + dense
    loop = Recipe.model_validate({"distill": {"aim": "loop"}})
    assert rows_of(loop)["frontier-ort-cpu"] == rows_of(loop)["explain-ort-cpu"] + small


def test_a_process_with_many_layers_has_a_larger_graph_at_every_stage():
    few, many = (dict(engine_needs(*LARGE, BOTH, {}, tensors=tensors)) for tensors in (0, 1000))
    more = graph_bytes(1000) - graph_bytes(0)
    assert more > 0
    assert many == {stage: needed + more for stage, needed in few.items()}
    exported = {
        one.stage: one.memory_bytes
        for one in stage_needs(*LARGE, BOTH, {}, on_gpu=False, tensors=1000)
    }
    assert exported["export-dense"] == exported["export-compressed"] == graph_bytes(1000)
    assert all(exported[stage] == needed for stage, needed in many.items())


def test_a_runtime_with_an_engine_for_each_shape_has_all_of_them_open():
    batches = BOTH.model_copy(update={"build": BOTH.build.model_copy(update={"batch": (1, 4, 4)})})
    one, two = rows_of(BOTH), rows_of(batches)
    assert two["bench-ort-cpu"] == one["bench-ort-cpu"]
    assert two["bench-openvino"] - EXPORT_BYTES == 2 * (one["bench-openvino"] - EXPORT_BYTES)
    sized = Recipe.model_validate({**BOTH.model_dump(), "export": {"resolution": ["8", "16"]}})
    assert rows_of(sized)["bench-openvino"] == two["bench-openvino"]


def test_of_other_precisions_and_of_targets_that_say_nothing_there_is_no_row():
    half = Recipe.model_validate(
        {"build": {"target": ["ort-cpu", "openvino"], "each": {"openvino": {"precision": "bf16"}}}}
    )
    assert {stage.split("-", 1)[1] for stage in rows_of(half)} == {
        "ort-cpu-dense", "ort-cpu-compressed", "ort-cpu"
    }  # fmt: skip
    assert rows_of(Recipe.model_validate({"build": {"target": ["torch"]}})) == {}


@given(
    count=st.integers(0, 3000 * MILLION),
    more=st.integers(1, 3000 * MILLION),
    name=st.sampled_from(["ort-cpu", "openvino"]),
)
def test_more_weights_never_need_less_where_they_lie_alike(count, more, name):
    """A graph that is read whole takes more than a larger one whose weights lie apart."""
    recipe = Recipe.model_validate({"build": {"target": [name]}})
    if is_whole(count) != is_whole(count + more):
        return
    before, after = (rows_of(recipe, (each, each)) for each in (count, count + more))
    assert all(after[stage] > before[stage] for stage in before)
    assert export_bytes(count + more, 5, 9) >= export_bytes(count, 5, 9)


def test_a_target_never_has_less_than_the_weights_of_what_is_open():
    for name in ("ort-cpu", "openvino"):
        copies = targets.target(name).facts.weight_copies
        assert 1 <= copies.one <= copies.one_read_whole < engine_memory._READ_COPIES


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_file_is_read_whole_where_the_export_wrote_it_so(tmp_path, monkeypatch, beyond):
    """Oracle: the files of an export, on either side of the limit."""
    layer = nn.Linear(40, 30)
    count = sum(value.numel() for value in layer.parameters())
    limit = 4 * count - beyond
    for module in (weights, engine_memory):
        monkeypatch.setattr(module, "LARGEST_SINGLE_FILE", limit)
    specs = [TensorSpec("sample", (40,), kind="sample")]

    def examples(wanted, batch, generator):
        return {one.name: torch.randn(batch, *one.shape, generator=generator) for one in wanted}

    export_onnx(
        layer, lambda model, inputs: model(inputs["sample"]), specs, tmp_path, examples=examples
    )
    apart = tmp_path / "model.onnx.data"
    assert apart.exists() == bool(beyond) == (not is_whole(count))
    written = export_bytes(count, 0, 0) - EXPORT_BYTES
    assert written == (0 if beyond else 3 * 4 * count)


def test_an_engine_takes_the_disk_that_its_row_says(compiled):
    """Oracle: the bytes of OUT/engines, of which the graph is a small part."""
    out = compiled[0]
    plan = json.loads((out / "plan.json").read_text())
    rows = {
        one.stage: one
        for one in stage_needs(
            plan["dense"]["params"], plan["compressed"]["params"], Recipe(), {}, on_gpu=False
        )
    }
    for side in ("dense", "compressed"):
        folder = out / "engines" / "ort-cpu" / side
        size = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
        row = rows[f"build-ort-cpu-{side}"]
        assert row.disk_bytes <= size < row.disk_bytes + 300_000
        assert row.gpu_bytes == 0


def test_a_run_asks_for_the_stages_that_it_has(tiny_model):
    source = find_source(tiny_model)
    ends = {
        stop: stages_until(source, BOTH, stop) for stop in ("plan", "prune", "distill", "export")
    }
    assert ends["plan"] == ["data", "importance"]
    assert ends["prune"] == [*ends["plan"], "prune"]
    assert ends["distill"] == [*ends["prune"], "distill"]
    assert ends["export"] == [*ends["distill"], "export-dense", "export-compressed"]
    builds, every = (stages_until(source, BOTH, stop) for stop in ("build", "bench"))
    assert {name.split("-")[0] for name in set(builds) - set(ends["export"])} == {"build"}
    others = {name.split("-")[0] for name in set(every) - set(builds)}
    assert others == {"bench", "frontier", "explain"}
