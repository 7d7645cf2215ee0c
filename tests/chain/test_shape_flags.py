"""--one-profile and --resolution: from the flag to the engine, and to the graph's inputs."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from onnx_folder import write_handmade_folder

from diffc.chain.back import build_stage
from diffc.cli.options import recipe_flags
from diffc.errors import RequestError
from diffc.events import drain
from diffc.recipe import resolve
from diffc.stages import Room


def built(tmp_path, target, **flags):
    if not (tmp_path / "out").exists():
        write_handmade_folder(tmp_path / "out" / "onnx" / "dense")
    recipe = resolve(family="UNet2DModel", flags=recipe_flags(target=[target], **flags))
    stage = build_stage(tmp_path / "out", recipe, target, "dense")
    place = tmp_path / f"room-{len(list(tmp_path.iterdir()))}"
    room = Room(out=place / "out", scratch=place / "scratch")
    room.out.mkdir(parents=True)
    drain(stage.run(room))
    profiles = json.loads((room.out / "engine" / "engine.json").read_text())["profiles"]
    spans = [[p["sample"][end][0] for end in ("min", "opt", "max")] for p in profiles]
    return stage, spans


@pytest.mark.parametrize("target", ["ort-cpu", "openvino", "trt-rtx"])
def test_batches_share_a_profile_when_asked_for(tmp_path, target):
    from diffc.targets import target as find

    if not find(target).status().buildable:
        pytest.skip(f"no {target} here")
    each, spans = built(tmp_path, target, batch="1,4,8", threads=1)
    assert spans == [[1, 1, 1], [4, 4, 4], [8, 8, 8]]
    one, spans = built(tmp_path, target, batch="1,4,8", threads=1, one_profile=True)
    assert spans == [[1, 4, 8]]
    assert each.inputs != one.inputs  # not taken from the cache of the other


def test_resolution_reaches_the_inputs():
    from diffc.models.families import family

    recipe = resolve(family="UNet2DModel", flags=recipe_flags(resolution=64))
    config = {"in_channels": 3, "sample_size": 32}
    sample = family("UNet2DModel").specs(config, recipe.export.resolution)[0]
    assert sample.shape == (3, 64, 64)
    with pytest.raises(RequestError, match=r"resolution.*0"):
        resolve(family="UNet2DModel", flags=recipe_flags(resolution=0))
