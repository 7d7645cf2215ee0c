"""--one-profile and --resolution: from the flag to the engine, and to the graph's inputs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.onnx_folder import describe_folder, write_handmade_folder
from support.quick import QUICK

from diffc.cli.command import recipe_options
from diffc.errors import RequestError
from diffc.recipe import resolve
from diffc.runner import StageFolder, StageResult
from diffc.stages.build import build_stage
from diffc_export.events import drain
from diffc_runtime.files import file_digest


def built(tmp_path, target, **flags):
    if not (tmp_path / "out").exists():
        write_handmade_folder(tmp_path / "out" / "onnx" / "dense")
    recipe = resolve(family="UNet2DModel", flags=recipe_options({"target": [target], **flags}))
    stage = build_stage(tmp_path / "out", recipe, target, "dense")
    place = tmp_path / f"folder-{len(list(tmp_path.iterdir()))}"
    folder = StageFolder(out=place / "out", scratch=place / "scratch", logs=place / "logs")
    folder.out.mkdir(parents=True)
    drain(stage.run(stage.inputs, folder))
    profiles = json.loads((folder.out / "engine" / "engine.json").read_text())["profiles"]
    spans = [[p["sample"][end][0] for end in ("min", "opt", "max")] for p in profiles]
    return stage, spans


@pytest.mark.parametrize("target", ["ort-cpu", "openvino", "trt-rtx"])
def test_batches_share_a_profile_when_asked_for(tmp_path, target):
    from diffc_export.targets import target as find

    if not find(target).status().buildable:
        pytest.skip(f"no {target} here")
    each, spans = built(tmp_path, target, batch="1,4,8", threads=1)
    assert spans == [[1, 1, 1], [4, 4, 4], [8, 8, 8]]
    one, spans = built(tmp_path, target, batch="1,4,8", threads=1, one_profile=True)
    assert spans == [[1, 4, 8]]
    assert each.inputs != one.inputs  # not taken from the cache of the other


def test_resolution_reaches_the_inputs():
    from diffc.models.families import family

    recipe = resolve(family="UNet2DModel", flags=recipe_options({"resolution": "64"}))
    config = {"in_channels": 3, "sample_size": 32}
    sample = family("UNet2DModel").specs(config, recipe.export.size)[0]
    assert sample.shape == (3, 64, 64)
    with pytest.raises(RequestError, match=r"resolution.*0"):
        resolve(family="UNet2DModel", flags=recipe_options({"resolution": "0"}))


def test_an_engine_of_other_sizes_is_another(tmp_path):
    """The same ONNX file, to serve 16x16 as well or 24x24: nothing is taken from the cache."""
    keys = []
    folder = write_handmade_folder(tmp_path / "out" / "onnx" / "dense", others=((16, 16),))
    for others in (((16, 16),), ((24, 24),), ((16, 16), (24, 24))):
        describe_folder(folder, (1, 8, 8), others=others)
        recipe = resolve(family="UNet2DModel", flags=recipe_options({"target": ["ort-cpu"]}))
        stage = build_stage(tmp_path / "out", recipe, "ort-cpu", "dense")
        keys.append(stage.inputs.onnx.digest)
    assert len(set(keys)) == 3
    write_handmade_folder(folder)
    recipe = resolve(family="UNet2DModel", flags=recipe_options({"target": ["ort-cpu"]}))
    alone = build_stage(tmp_path / "out", recipe, "ort-cpu", "dense").inputs.onnx.digest
    assert alone not in keys


@pytest.mark.parametrize("told", ["16,16", "16,0", "16,x", "16,", ""])
def test_sides_that_are_none_are_refused(told):
    with pytest.raises(RequestError, match="resolution"):
        resolve(family="UNet2DModel", flags=recipe_options({"resolution": told}))


@pytest.mark.parametrize(
    ("class_name", "sides", "words"),
    [
        ("UNet2DModel", [16, 15], "15 is not a multiple of 2"),
        ("FluxTransformer2DModel", [16, 15], "15 is not a multiple of 2"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_made(
    tiny_model, tmp_path, class_name, sides, words
):
    from diffc.models.source import find_source
    from diffc.stages.order import run
    from diffc.stages.request import Request

    source = replace(find_source(str(tiny_model)), class_name=class_name)
    recipe = resolve(family=class_name, flags={"export": {"resolution": sides}})
    with pytest.raises(RequestError, match=words):
        drain(run(Request(source, recipe, tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_front_works_at_the_first_side(tiny_model):
    """Importance is the same stage whatever else is served; one side alone keeps its old key."""
    from diffc.models.source import find_source
    from diffc.stage_outcomes import DataOutcome
    from diffc.stages.data import data_stage
    from diffc.stages.importance import importance_stage

    source = find_source(str(tiny_model))
    stages = []
    for sides in (16, [16], [16, 24], [24, 16]):
        recipe = resolve(family="UNet2DModel", flags={"export": {"resolution": sides}})
        data = StageResult(
            "data", data_stage(source, recipe).key, Path(), DataOutcome(), 0.0, 0, True
        )
        stages.append(importance_stage(source, recipe, data).inputs)
    assert stages[0] == stages[1] == stages[2] != stages[3]
    assert (stages[0].shape.resolution, stages[3].shape.resolution) == (16, 24)
    assert stages[0].data.key != stages[3].data.key  # samples of another size are others


@pytest.mark.parametrize(
    ("flags", "captured"),
    [
        ({}, True),
        ({"batch": "1,4"}, False),
        ({"resolution": "16,24"}, False),
        ({"batch": "1,4", "one_profile": True}, False),
    ],
)
def test_the_ladder_knows_what_is_captured(flags, captured):
    """ONNX Runtime's graphs hold one shape; TensorRT's are one for each."""
    from diffc.stages.explain import captures

    recipe = resolve(family="UNet2DModel", flags=recipe_options(flags))
    assert captures("ort-cuda", recipe) is captured
    assert captures("trt", recipe) and not captures("ort-cpu", recipe)


@pytest.mark.slow
def test_two_resolutions_from_the_flag_to_the_report(tiny_model, tmp_path):
    """The whole chain: one file, engines that serve both, each measured and held to torch."""
    import diffc
    from diffc.bundle.build import write_bundle
    from diffc_runtime import open_bundle

    options = {**QUICK, "export": {"resolution": [16, 24]}, "build": {"batch": [1, 2]}}
    options["measure"] = {**QUICK["measure"], "explain": "off"}
    out = tmp_path / "out"
    report = diffc.compile(tiny_model, ratio=0.4, out=out, target="ort-cpu", options=options)
    assert [(r.resolution, r.batch) for r in report.targets] == [
        ((16, 16), 1), ((16, 16), 2), ((24, 24), 1), ((24, 24), 2),
    ]  # fmt: skip
    for result in report.targets:
        assert result.parity.passed and result.dense.parity.rel_l2 < 1e-4
        assert result.dense.latency_ms.n >= 10 and result.dense.memory.peak_bytes > 0
    assert len(report.pipeline) == 1 and report.pipeline[0].speedup is not None
    macs = json.loads((out / "onnx" / "dense" / "model.json").read_text())["macs"]
    assert macs == report.model.macs
    again = diffc.compile(tiny_model, ratio=0.4, out=out, target="ort-cpu", options=options)
    assert all(stage.cached for stage in again.stages)
    write_bundle(out, tmp_path / "bundle", server="none")
    assert open_bundle(tmp_path / "bundle").generate(1, 2, 0).shape == (1, 1, 16, 16)
    _wrong_elsewhere_fails(out)


def _wrong_elsewhere_fails(out):
    """An engine that another size's reference does not bear out ends the run as failed."""
    from safetensors.numpy import load_file, save_file

    from diffc.output import locked_recipe
    from diffc.stages.order import ParityFailed, finish
    from diffc_export.events import follow

    path = out / "onnx" / "compressed" / "reference.safetensors"
    tensors = load_file(path)
    tensors["at.24x24.output"] = tensors["at.24x24.output"] + 1
    save_file(tensors, path)
    record = out / ".diffc" / "export-compressed.json"  # as if torch had given these
    stage = json.loads(record.read_text())
    stage["files"]["compressed/reference.safetensors"] = file_digest(path)
    record.write_text(json.dumps(stage))
    with pytest.raises(ParityFailed, match="at 24x24, batch 1: relative error") as failed:
        follow(finish(out, locked_recipe(out), "bench"), None)
    assert failed.value.exit_code == 1
