"""What engines need of memory: by the files on the disk, and by what must hold of any network."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import onnx
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
from diffc.stages.precision import precision_stage
from diffc_export import targets
from diffc_export.events import drain
from diffc_export.onnx import weights
from diffc_export.onnx.export import export_onnx
from diffc_export.onnx.precision import LOW, convert_precision
from diffc_export.onnx.quantize import QuantizeOptions, quantize
from diffc_export.specs import TensorSpec
from diffc_export.targets.onnx_file import MODEL

MILLION = 1_000_000
BOTH = Recipe.model_validate({"build": {"target": ["ort-cpu", "openvino"]}})
LARGE = (300 * MILLION, 200 * MILLION)
"""Parameters of networks whose weights lie apart from the graph."""


def rows_of(
    recipe: Recipe, sizes=LARGE, calls=None, tensor_sizes=(), shares=None
) -> dict[str, int]:
    needs = engine_needs(*sizes, recipe, calls or {}, tensor_sizes=tensor_sizes, shares=shares)
    return {stage: memory for stage, memory, _ in needs}


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
    stages = [one.stage for one in stage_needs(*LARGE, BOTH, {}, tensor_sizes=(), on_gpu=False)]
    assert stages[: stages.index("export-dense")] == [
        "data", "importance", "prune", "repair", "distill", "samples"
    ]  # fmt: skip
    assert stages[stages.index("export-compressed") + 1 :] == wanted


def test_both_engines_are_open_while_they_are_measured_and_torch_beside_them():
    opened = targets.target("ort-cpu").facts.memory["fp32"].opened
    times = opened.weights
    dense, small = (4 * count for count in LARGE)
    rows = rows_of(BOTH, calls={"bench": 7 * MILLION, "bench-scores": 10 * MILLION})
    assert rows["build-ort-cpu-dense"] == EXPORT_BYTES + round(times * dense)
    both = EXPORT_BYTES + round(times * (dense + small))
    assert rows["bench-ort-cpu"] == both + 10.5 * MILLION
    assert rows["bench-openvino"] - rows_of(BOTH)["bench-openvino"] == 7 * MILLION
    for stage in ("frontier-ort-cpu", "explain-ort-cpu"):
        assert rows[stage] == rows["bench-ort-cpu"] + dense
    loop = Recipe.model_validate({"distill": {"aim": "loop"}})
    assert rows_of(loop)["frontier-ort-cpu"] == rows_of(loop)["explain-ort-cpu"] + small


def test_a_process_with_many_layers_has_a_larger_graph_at_every_stage():
    few, many = (rows_of(BOTH, tensor_sizes=[5] * tensors) for tensors in (0, 1000))
    more = graph_bytes(1000) - graph_bytes(0)
    assert more > 0
    assert many == {stage: needed + more for stage, needed in few.items()}
    exported = {
        one.stage: one.memory_bytes
        for one in stage_needs(*LARGE, BOTH, {}, on_gpu=False, tensor_sizes=[5] * 1000)
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


def test_of_precisions_and_of_targets_that_say_nothing_there_is_no_row():
    half = Recipe.model_validate(
        {"build": {"target": ["ort-cpu", "openvino"], "each": {"openvino": {"precision": "bf16"}}}}
    )
    assert {stage.split("-", 1)[1] for stage in rows_of(half)} == {
        "ort-cpu-dense", "ort-cpu-compressed", "ort-cpu"
    }  # fmt: skip
    assert rows_of(Recipe.model_validate({"build": {"target": ["torch"]}})) == {}


def lower(target: str, precision: str) -> Recipe:
    return Recipe.model_validate({"build": {"target": [target], "precision": precision}})


@pytest.mark.parametrize(
    ("target", "precision", "folder"),
    [
        ("openvino", "int8", "int8-asymmetric"),
        ("trt-rtx", "fp16", "fp16"),
        ("trt-rtx", "bf16", "bf16"),
        ("trt-rtx", "int8", "int8"),
        ("trt-rtx", "fp8", "fp8"),
    ],
)
def test_a_file_in_a_lower_precision_has_a_row_before_its_engine(
    target, precision, folder, tmp_path, compiled
):
    """Oracle: the names that the stages themselves have."""
    recipe = lower(target, precision)
    rows = list(rows_of(recipe))
    own = recipe.for_target(target)
    for side, at in (("dense", 0), ("compressed", 2)):
        stage = precision_stage(compiled[0], own, target, side)
        assert stage.name == rows[at] == f"precision-{folder}-{side}"
        assert rows[at + 1] == f"build-{target}-{side}"
    measured = ["bench-openvino", "frontier-openvino", "explain-openvino"]
    assert rows[4:] == (measured if target == "openvino" else [])  # the other's are on a GPU


def test_a_target_that_says_nothing_still_has_its_file_converted():
    """``trt`` reads what casts have written, wherever its own engines are."""
    rows = rows_of(lower("trt", "fp16"))
    assert list(rows) == ["precision-fp16-dense", "precision-fp16-compressed"]
    assert not [stage for stage in rows_of(lower("trt", "auto")) if "precision" not in stage]


def test_targets_that_share_a_file_have_it_converted_once():
    names = [name for name in rows_of(
        Recipe.model_validate({"build": {"target": ["trt", "trt-rtx"], "precision": "int8"}})
    ) if name.startswith("precision")]  # fmt: skip
    assert names == ["precision-int8-dense", "precision-int8-compressed"]


def test_casts_hold_no_weights_of_a_large_file_and_trials_the_largest_of_them():
    casts = rows_of(lower("trt-rtx", "fp16"))
    # the file of the small side is read whole in fp16 alone, as it is written
    sizes = (300 * MILLION, 100 * MILLION)
    written = rows_of(lower("trt-rtx", "fp16"), sizes)["precision-fp16-compressed"]
    assert written - EXPORT_BYTES == 3 * 2 * 100 * MILLION
    assert casts["precision-fp16-dense"] - EXPORT_BYTES == engine_memory._CONVERTED_BYTES
    calls, tensors = {"precision": 1000 * MILLION}, [30 * MILLION, 10]
    int8 = rows_of(lower("openvino", "int8"), calls=calls, tensor_sizes=tensors)
    beside = graph_bytes(2) + engine_memory._CONVERTED_BYTES + 1100 * MILLION
    assert int8["precision-int8-asymmetric-dense"] == beside + 540 * MILLION
    assert int8["precision-int8-asymmetric-compressed"] == beside + 360 * MILLION


def test_a_lower_precision_is_measured_beside_the_dense_engine_in_fp32():
    rows, dense = rows_of(lower("openvino", "int8")), 4 * 300 * MILLION
    for stage in ("frontier-openvino", "explain-openvino"):
        assert rows[stage] - rows["bench-openvino"] == pytest.approx(dense + 1.05 * dense)


def precisions_of(monkeypatch, name, *has):
    monkeypatch.setattr(type(targets.target(name)), "precisions", lambda _: frozenset(has))


def test_automatic_precision_has_the_most_memory_of_any_and_the_disk_of_all(monkeypatch):
    precisions_of(monkeypatch, "openvino", "int8", "fp32")
    auto, *single = (
        {
            stage: facts
            for stage, *facts in engine_needs(*LARGE, lower("openvino", one), {}, tensor_sizes=[9])
        }
        for one in ("auto", "fp32", "int8")
    )
    choice, _ = auto.pop("choose-openvino")
    assert set(auto) == {stage for rows in single for stage in rows}
    for stage, (memory, disk) in auto.items():
        each = [rows[stage] for rows in single if stage in rows]
        assert memory == max(needed for needed, _ in each)
        assert disk == sum(files for _, files in each)
    # the dense engine in int8 lies beside that in fp32
    more = 4 * LARGE[0] * (1.05 + 1.15 / 4)
    assert choice - graph_bytes(1) == pytest.approx(more)


def test_the_choice_among_precisions_has_all_compressed_engines_open(monkeypatch):
    precisions_of(monkeypatch, "openvino", "fp32", "fp16", "bf16")
    kind = type(targets.target("openvino"))
    fp32 = kind.facts.memory["fp32"]
    assert "choose-openvino" not in rows_of(lower("openvino", "auto"))  # nobody measured bf16
    known = replace(kind.facts, memory=dict.fromkeys(("fp32", "fp16", "bf16"), fp32))
    monkeypatch.setattr(kind, "facts", known)
    nearly_whole = 290 * MILLION
    rows = rows_of(lower("openvino", "auto"), (LARGE[0], nearly_whole), {"bench": 8 * MILLION})
    opened = 3 * 1.05 * 4 * nearly_whole  # each is built from the file in fp32
    assert rows["choose-openvino"] == pytest.approx(EXPORT_BYTES + opened + 12 * MILLION)


def test_in_the_choice_each_shape_has_its_engine_while_outputs_are_compared(monkeypatch):
    precisions_of(monkeypatch, "openvino", "fp32", "int8")
    build = {"target": ["openvino"], "precision": "auto", "batch": [1, 2, 4]}
    recipe = Recipe.model_validate({"build": build})
    rows = rows_of(recipe, calls={"bench": 8 * MILLION})
    fp32, int8 = 1.05 * 4 * LARGE[0], 1.15 * LARGE[0]
    most = max(3 * fp32, 3 * int8 + fp32) + 8 * MILLION
    assert rows["choose-openvino"] == pytest.approx(EXPORT_BYTES + most)


def test_automatic_precision_that_has_no_other_is_the_exact_one(monkeypatch):
    precisions_of(monkeypatch, "ort-cpu", "fp32")
    auto, fp32 = (rows_of(lower("ort-cpu", one)) for one in ("auto", "fp32"))
    assert auto.pop("choose-ort-cpu") == EXPORT_BYTES + round(1.03 * 4 * LARGE[0])
    assert auto == fp32


def test_layers_in_fp32_make_a_file_larger():
    shares = {"precision-int8-asymmetric-dense": 0.5}
    few, many = (
        rows_of(lower("openvino", "int8")),
        rows_of(lower("openvino", "int8"), shares=shares),
    )
    assert many["build-openvino-compressed"] == few["build-openvino-compressed"]
    more = 0.25 * 4 * 300 * MILLION
    assert many["bench-openvino"] - few["bench-openvino"] == pytest.approx(1.15 * more)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_a_files_weights_have_the_bytes_of_its_precision(tmp_path, unet_folder, precision):
    """Oracle: files that were converted; norms and biases stay in fp32 where layers are in int8."""
    if precision in LOW:
        convert_precision(unet_folder, tmp_path, precision)
    else:
        options = QuantizeOptions(trajectories=1, tolerance=math.inf)
        drain(quantize(unet_folder, tmp_path, options, precision=precision))
    plain, lower = (weights.nbytes(onnx.load(folder / MODEL)) for folder in (unet_folder, tmp_path))
    assert lower / plain == pytest.approx(engine_memory._SHARE[precision], rel=0.1)


@given(
    count=st.integers(0, 3000 * MILLION),
    more=st.integers(1, 3000 * MILLION),
    name=st.sampled_from(["ort-cpu", "openvino"]),
)
def test_more_weights_never_need_less_where_they_lie_alike(count, more, name):
    """A graph that is read whole takes more than a larger one whose weights lie apart."""
    recipe = Recipe.model_validate({"build": {"target": [name]}})
    if is_whole(4 * count) != is_whole(4 * (count + more)):
        return
    before, after = (rows_of(recipe, (each, each)) for each in (count, count + more))
    assert all(after[stage] > before[stage] for stage in before)
    assert export_bytes(count + more, 5, 9) >= export_bytes(count, 5, 9)


def test_a_target_never_has_less_than_the_weights_of_what_is_open():
    for name in ("ort-cpu", "openvino"):
        for memory in targets.target(name).facts.memory.values():
            assert 1 <= memory.built <= memory.opened.weights <= memory.opened.whole
            assert memory.opened.whole < engine_memory._READ_COPIES


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
    assert apart.exists() == bool(beyond) == (not is_whole(4 * count))
    written = export_bytes(count, 0, 0) - EXPORT_BYTES
    assert written == (0 if beyond else 3 * 4 * count)


def test_an_engine_takes_the_disk_that_its_row_says(compiled):
    """Oracle: the bytes of OUT/engines, of which the graph is a small part."""
    out = compiled[0]
    plan = json.loads((out / "plan.json").read_text())
    rows = {
        one.stage: one
        for one in stage_needs(
            plan["dense"]["params"],
            plan["compressed"]["params"],
            Recipe(),
            {},
            tensor_sizes=(),
            on_gpu=False,
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
