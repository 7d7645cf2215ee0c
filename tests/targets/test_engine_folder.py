"""The engine folder: a round trip, and everything that must be refused before an engine loads."""

import json
from dataclasses import replace

import pytest

from diffc.errors import CheckFailed, InputError, NotComparable
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.engine import (
    check_precision,
    is_promised,
    new_engine_folder,
    open_engine,
    read_info,
)
from diffc_export.targets.onnx_file import OnnxModel
from diffc_export.targets.onnx_precision import shares


@pytest.fixture
def engine(folder, tmp_path):
    drain(target("fake").build(folder, BuildOptions(batch=(1, 4)), tmp_path / "engine"))
    return tmp_path / "engine"


def test_what_is_written_is_read_back(engine, folder):
    info = read_info(engine)
    again = type(info).from_json(json.loads(json.dumps(info.to_json())))
    assert again == info
    assert info.batches == (1, 4)
    assert info.source == json.loads((folder / "model.json").read_text())
    assert info.engine_bytes == (engine / "scale.txt").stat().st_size
    assert not list(engine.parent.glob(".*")), "temporary folders are left"


def test_altered_file_is_refused(engine):
    (engine / "scale.txt").write_text("2.0")
    with pytest.raises(InputError, match=r"scale\.txt was cut or altered"):
        target("fake").load(engine)


def test_missing_file_is_refused(engine):
    (engine / "scale.txt").unlink()
    with pytest.raises(InputError, match=r"scale\.txt is missing"):
        target("fake").load(engine)


def test_another_version_is_refused_with_both_fingerprints(engine):
    content = json.loads((engine / "engine.json").read_text())
    content["versions"]["fake"] = "0.9"
    (engine / "engine.json").write_text(json.dumps(content))
    with pytest.raises(NotComparable, match=r"built for fake 0\.9; here fake 1\.0") as caught:
        target("fake").load(engine)
    assert caught.value.exit_code == 4
    assert "diffc build" in caught.value.hint


def test_another_gpu_is_refused_with_both_fingerprints(engine):
    info = replace(read_info(engine), tied_to=("gpu",), device={"gpu": "NVIDIA L4"})
    (engine / "engine.json").write_text(json.dumps(info.to_json()))
    with pytest.raises(NotComparable, match="gpu NVIDIA L4; here gpu NVIDIA T4"):
        open_engine(engine, "fake", {"gpu": "NVIDIA T4"})


def test_engine_of_another_target_is_refused(engine):
    with pytest.raises(InputError, match="an engine for 'fake', not 'ort-cpu'"):
        target("ort-cpu").load(engine)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "null"])
def test_damaged_engine_json_is_named(engine, text):
    (engine / "engine.json").write_text(text)
    with pytest.raises(InputError, match=r"engine\.json is damaged"):
        read_info(engine)


def test_engine_json_of_a_later_format_is_refused(engine):
    (engine / "engine.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="format 99"):
        read_info(engine)


def test_folder_without_engine_json_is_named(tmp_path):
    with pytest.raises(InputError, match="not an engine folder"):
        read_info(tmp_path)


def test_failed_build_leaves_the_old_engine(engine):
    before = read_info(engine)
    with pytest.raises(RuntimeError), new_engine_folder(engine) as new:
        (new / "half").write_text("x")
        raise RuntimeError
    assert read_info(engine) == before
    assert not list(engine.parent.glob(".*"))


def test_rebuild_replaces_the_whole_folder(engine, folder):
    (engine / "stray").write_text("x")
    drain(target("fake").build(folder, BuildOptions(batch=(2,)), engine))
    assert read_info(engine).batches == (2,)
    assert not (engine / "stray").exists()


def test_somebody_elses_folder_is_left_alone(folder, tmp_path):
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "cat.png").write_text("x")
    with pytest.raises(InputError, match="not an engine folder"):
        drain(target("fake").build(folder, BuildOptions(), mine))
    assert (mine / "cat.png").exists()


def holding(content=(("precision", "fp32"),), **held):
    """A checked ONNX file with these shares."""
    return OnnxModel("model.onnx", (), (), dict(content), (), held)


def test_silent_fall_back_is_an_error():
    held = shares([("fp16", 100), ("fp32", 300)])
    assert held == {"fp16": 0.25, "fp32": 0.75}
    words = r"fp16 was asked for.*in fp32 75%, fp16 25%; by the ONNX file \(fp16 100%\) 100%"
    with pytest.raises(CheckFailed, match=words):
        check_precision("fp16", held, holding(fp16=1.0), "engine")


def test_layers_that_fell_back_are_an_error_also_where_they_are_fewer():
    held = {"fp16": 0.51, "fp32": 0.49}
    with pytest.raises(CheckFailed, match="fp16 51%, fp32 49%"):
        check_precision("fp16", held, holding(fp16=1.0), "engine")
    with pytest.raises(CheckFailed):
        check_precision("fp16", held, holding(fp16=0.55, fp32=0.45), "engine")
    assert check_precision("fp16", held, holding(fp16=0.52, fp32=0.48), "engine") == "fp16"


def test_layers_that_the_file_keeps_exact_are_no_fall_back():
    held = {"int8": 0.45, "fp32": 0.55}
    assert check_precision("int8", held, holding(int8=0.45, fp32=0.55), "engine") == "int8"
    around = {"int8": 0.45, "bf16": 0.55}
    assert check_precision("int8", around, holding(int8=0.45, fp32=0.55), "engine") == "int8"


def test_a_hint_reaches_every_float_layer():
    file = holding(fp32=0.6, fp16=0.4)
    hints = ("fp32", "bf16")
    assert check_precision("bf16", {"bf16": 1.0}, file, "engine", hints) == "bf16"
    with pytest.raises(CheckFailed, match=r"bf16 80%, fp32 20%.* 100% were to be in bf16"):
        check_precision("bf16", {"bf16": 0.8, "fp32": 0.2}, file, "engine", hints)


def test_a_file_that_is_not_what_its_description_says():
    with pytest.raises(CheckFailed, match=r"computes in fp32 100%; by the ONNX file \(fp32 100%\)"):
        check_precision("fp16", {"fp32": 1.0}, holding(fp32=1.0), "engine")


def test_of_a_plain_file_nothing_was_promised():
    plain = holding((), fp16=1.0)
    assert plain.precision == "fp16"
    assert not is_promised(plain, None) and is_promised(plain, "fp16")
    assert is_promised(holding(fp32=1.0), None)
    assert check_precision("fp16", {"fp32": 1.0}, plain, "engine", strict=False) == "fp32"


def test_precision_the_file_does_not_hold_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="is fp32, fp16 was asked for"):
        drain(target("fake").build(folder, BuildOptions(precision="fp16"), tmp_path / "e"))
