"""Anything against anything: engines, ONNX files, output folders."""

import json
import shutil

import pytest
from support.onnx_folder import write_handmade_folder

from diffc.errors import InputError, RequestError
from diffc.measure.engines import MeasureOptions
from diffc.measure.latency import LatencyOptions
from diffc.measure.side_by_side import side_by_side
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions

QUICK = LatencyOptions(rounds=15, seconds=0.0, warmup_seconds=0.2)


def compare(*things, targets=(), **changed):
    options = MeasureOptions(**{"latency": QUICK, "memory": False, **changed})
    return drain(side_by_side(things, targets, options))


def test_engines_folders_and_files_together(engines, folders):
    pytest.importorskip("onnxruntime")
    made = engines("fake")
    found = compare(
        made["dense"], folders["dense"], folders["compressed"] / "model.onnx", targets=["ort-cpu"]
    )
    assert [row.target for row in found.rows] == ["fake", "ort-cpu", "ort-cpu"]
    assert found.rows[0].speedup is None and found.rows[1].speedup.median > 0
    assert all(row.figures.latency_ms for row in found.rows)
    assert found.noise[1].against_itself.pairs == 7
    assert "trtexec" in found.percentile_rule and found.environment["fingerprint"]


@pytest.fixture
def file_at_batch_4(folders):
    """A plain ONNX file that another exporter fixed at batch 4."""
    import onnx

    path = folders["compressed"] / "model.onnx"
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, path)
    return path


def test_a_file_with_a_fixed_batch_sets_it_for_all(folders, file_at_batch_4):
    pytest.importorskip("onnxruntime")
    found = compare(folders["dense"] / "model.onnx", file_at_batch_4)
    assert [row.batch for row in found.rows] == [4, 4]
    assert all(row.figures.latency_ms for row in found.rows)
    with pytest.raises(
        RequestError, match=r"model\.onnx: input 'sample' is fixed at batch 4, not 1"
    ):
        compare(file_at_batch_4, batch=(1,))


def test_output_folder_lists_its_engines_dense_first(engines, tmp_path):
    engines("fake")
    rows = compare(tmp_path / "OUT").rows
    assert [row.label for row in rows] == [
        "OUT/engines/fake/dense",
        "OUT/engines/fake/compressed",
    ]
    assert rows[1].speedup.median == pytest.approx(2.0, rel=0.02)


def test_engines_of_a_pipelines_other_parts_are_left_aside(engines, tmp_path):
    dense = engines("fake")["dense"]
    for part in ("decoder", "encoder", "masked-decoder", "text_encoder_2"):
        shutil.copytree(dense, dense.parent / part)
    places = [row.label.removeprefix("OUT/engines/fake/") for row in compare(tmp_path / "OUT").rows]
    assert places == ["dense", "compressed"]


def test_only_the_targets_asked_for(engines, tmp_path):
    pytest.importorskip("onnxruntime")
    engines("fake"), engines("ort-cpu")
    rows = compare(tmp_path / "OUT", targets=["ort-cpu"]).rows
    assert {row.target for row in rows} == {"ort-cpu"}
    with pytest.raises(InputError, match="holds no engines for openvino"):
        compare(tmp_path / "OUT", targets=["openvino"])


def test_every_common_batch_is_measured(engines):
    made = engines("fake", batch=(1, 4))
    found = compare(made["dense"], made["compressed"])
    assert [row.batch for row in found.rows] == [1, 1, 4, 4]
    assert set(found.noise) == {1, 4}
    assert [row.speedup.median for row in found.rows if row.speedup] == pytest.approx(
        [2.0, 2.0], rel=0.02
    )


def test_the_same_engine_twice_has_two_lines(engines):
    dense = engines("fake")["dense"]
    rows = compare(dense, dense).rows
    assert [row.label for row in rows] == [str(dense), f"{dense} (2)"]
    assert rows[1].speedup.median == pytest.approx(1.0, rel=0.03)


def test_memory_is_of_a_fresh_process(engines):
    pytest.importorskip("onnxruntime")
    (row,) = compare(engines("ort-cpu")["dense"], memory=True).rows
    assert row.figures.memory.peak_bytes > row.figures.memory.engine_bytes > 0


def _of_another_version(engine):
    content = json.loads((engine / "engine.json").read_text())
    content["versions"]["fake"] = "0.9"
    (engine / "engine.json").write_text(json.dumps(content))


def test_what_cannot_run_keeps_its_line(engines):
    made = engines("fake")
    _of_another_version(made["compressed"])
    rows = compare(*made.values()).rows
    assert rows[0].figures.latency_ms and rows[1].figures.latency_ms is None
    assert "fake 0.9" in rows[1].figures.absent


def test_the_first_that_runs_is_what_others_are_compared_with(engines):
    made = engines("fake")
    broken = engines("fake")["dense"].rename(made["dense"].parent / "old")
    _of_another_version(broken)
    dense = engines("fake")["dense"]
    rows = compare(broken, dense, made["compressed"]).rows
    assert rows[0].figures.absent and rows[1].speedup is None
    assert rows[2].speedup.median == pytest.approx(2.0, rel=0.02)


def test_nothing_that_runs_is_no_error(engines):
    made = engines("fake")
    for engine in made.values():
        _of_another_version(engine)
    found = compare(*made.values())
    assert len(found.rows) == 2 and all(row.figures.absent for row in found.rows)
    assert found.noise == {}


def test_other_shapes_are_refused_with_both(engines, tmp_path):
    dense = engines("fake")["dense"]
    large = write_handmade_folder(tmp_path / "large", 8, size=16)
    drain(target("fake").build(large, BuildOptions(), tmp_path / "e"))
    with pytest.raises(RequestError, match="do not do the same work") as caught:
        compare(dense, tmp_path / "e")
    assert "sample (batch, 1, 8, 8)" in str(caught.value)
    assert "sample (batch, 1, 16, 16)" in str(caught.value)


def test_a_batch_that_one_was_not_built_for_names_it(engines, folders, tmp_path):
    dense = engines("fake", batch=(1, 4))["dense"]
    drain(target("fake").build(folders["compressed"], BuildOptions(batch=(1,)), tmp_path / "one"))
    with pytest.raises(RequestError, match=r"one was not built for batch 4 \(it was for 1\)"):
        compare(dense, tmp_path / "one", batch=(4,))
    assert [row.batch for row in compare(dense, tmp_path / "one").rows] == [1, 1]


def test_no_batch_in_common_lists_each(engines, folders, tmp_path):
    dense = engines("fake", batch=(4,))["dense"]
    drain(target("fake").build(folders["compressed"], BuildOptions(batch=(1,)), tmp_path / "one"))
    with pytest.raises(RequestError, match=r"dense: 4; .*one: 1"):
        compare(dense, tmp_path / "one")


def test_what_is_no_engine_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes\.txt is nothing that can be measured"):
        compare(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="nowhere does not exist"):
        compare(tmp_path / "nowhere")
    (tmp_path / "empty" / "engines").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no engines"):
        compare(tmp_path / "empty")


def test_a_damaged_onnx_file_is_named(folders):
    path = folders["dense"] / "model.onnx"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"model\.onnx"):
        compare(path, folders["compressed"])
