"""The key of every stage holds every file that the stage reads, and what earlier stages left.

One run is watched: which files does each stage open? Then each of these is changed, and every key
is taken again without running anything: the keys of the stages that opened it must have changed.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.opened_files import OpenedFiles
from support.pipelines import save_image, save_sd
from support.runs import options_of

from diffc.errors import CheckFailed, InputError
from diffc.models.source import find_source
from diffc.recipe import Recipe, resolve
from diffc.runner import Stage, StageResult, StageRunner
from diffc.stages import order
from diffc.stages.build_and_measure import build_and_measure
from diffc_export.cache import cache_folder
from diffc_export.events import drain
from diffc_export.targets.engine import NAME, read_info
from diffc_export.targets.onnx_file import read_onnx
from diffc_runtime.engine_folder import check_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's"),
]
PASSING = ("recipe.lock.yaml",)  # its digests and options are inputs one by one


class KeyRunner:
    """Takes the keys of a chain's stages; what a real run left stands in for their results."""

    def __init__(
        self, out: Path, before: dict[str, StageResult], altered: str | None = None
    ) -> None:
        self.out, self._before, self._altered = out, before, altered
        self.keys: dict[str, str] = {}
        self.done: list[StageResult] = []

    def do(self, stage: Stage):
        yield from ()
        self.keys[stage.name] = stage.key
        key = "another key" if stage.name == self._altered else stage.key
        return replace(self._before[stage.name], key=key)

    do_if_any = StageRunner.do_if_any


class Watched:
    """One run of the whole chain: its stages, and the files that each of them opened."""

    def __init__(self, folder: Path, recipe: Recipe, monkeypatch) -> None:
        self.model, self.out, self.recipe = folder / "sd", folder / "o", recipe
        self.opened: dict[str, set[Path]] = {}
        monkeypatch.setenv("DIFFC_CACHE", str(folder / "cache"))
        (folder / "cache" / "done").mkdir(parents=True)
        self._files = OpenedFiles(folder)
        timed = StageRunner._do_timed

        def watched(runner, stage, folder, clock):
            self._files.forget()
            record = yield from timed(runner, stage, folder, clock)
            self.opened[stage.name] = self._files.names()
            return record

        monkeypatch.setattr(StageRunner, "_do_timed", watched)
        self.done = self._run()

    def _run(self) -> dict[str, StageResult]:
        done: dict[str, StageResult] = {}
        request = order.Request(find_source(self.model), self.recipe, self.out)
        work = order.run(request)
        try:
            for event in work:
                if event.done is not None:
                    done[event.stage] = event.done
        except CheckFailed:  # a random model in int8 need not be close
            pass
        return done

    def keys(self, altered: str | None = None) -> dict[str, str]:
        runner = KeyRunner(self.out, self.done, altered)
        request = order.Request(find_source(self.model), self.recipe, self.out)
        drain(order._front(runner, request))
        drain(build_and_measure(runner, self.recipe, "bench", lambda _: False))
        return runner.keys

    def readers(self, path: Path) -> set[str]:
        return {name for name, files in self.opened.items() if path in files}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    save_sd(folder / "sd")
    (folder / "sd" / "README.md").write_text("a model")
    for index in range(8):
        save_image(folder / "images" / f"{index}.png", 20 * index)
    (folder / "prompts.txt").write_text("a red cat\na blue dog\n")
    flags = options_of({
        "data": {"source": str(folder / "images"), "prompts": str(folder / "prompts.txt")},
        "distill": {"quality_every": 2},
        "build": {"target": ["ort-cpu"]},
    })  # fmt: skip
    flags["prune"] = {**flags["prune"], "ratio": 0.3}
    recipe = resolve(family="UNet2DConditionModel", flags=flags)
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Watched(folder, recipe, monkeypatch)


def change(path: Path) -> None:
    """Another content that can still be read where keys are taken."""
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        value["changed"] = "here"
        path.write_text(json.dumps(value))
    elif path.suffix in (".txt", ".md"):
        path.write_text(path.read_text() + "a red house\n")
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))


def is_guarded(path: Path) -> bool:
    """Whether whoever reads the file compares it with a hash first, and refuses it."""
    try:
        if (path.parent / NAME).is_file():
            check_files(path.parent, read_info(path.parent).files)
        elif path.name.startswith("model.onnx"):
            read_onnx(path.parent)
        else:
            return False
    except InputError:
        return True
    return False


def test_every_stage_was_watched(watched):
    kinds = {name.partition("-")[0] for name in watched.opened}
    assert kinds >= {"data", "importance", "plan", "prune", "distill", "samples", "export",
                     "build", "bench"}  # fmt: skip
    assert watched.keys() == {name: done.key for name, done in watched.done.items()}


def test_every_file_of_the_model_and_the_data_is_in_the_keys_of_its_readers(watched):
    before, missed, folder = watched.keys(), [], watched.model.parent
    places = (watched.model, folder / "images")
    files = {path for opened in watched.opened.values() for path in opened}
    given = [p for p in files if p == folder / "prompts.txt" or set(places) & set(p.parents)]
    assert len(given) > 10
    for path in sorted(given):
        held = path.read_bytes()
        change(path)
        after = watched.keys()
        path.write_bytes(held)
        missed += [
            (name, path) for name in watched.readers(path) if after.get(name) == before[name]
        ]
    assert not missed, missed


def test_every_file_of_out_is_in_the_keys_of_its_readers_or_is_guarded(watched):
    before, missed = watched.keys(), []
    for path in sorted({p for opened in watched.opened.values() for p in opened}):
        inside = watched.out in path.parents and path.is_file() and path.name not in PASSING
        if not inside:
            continue
        held = path.read_bytes()
        change(path)
        guarded = is_guarded(path)
        after = before if guarded else watched.keys()
        path.write_bytes(held)
        if not guarded:
            readers = watched.readers(path)
            # samples that were changed by hand have no frontier
            missed += [(name, path) for name in readers if after.get(name) == before[name]]
    assert not missed, missed


def test_what_an_earlier_stage_left_is_in_the_keys_of_its_readers(watched):
    before, missed, done = watched.keys(), [], cache_folder() / "done"
    makers = {done / f"{d.name}-{d.key[:32]}": d.name for d in watched.done.values()}
    for name, opened in watched.opened.items():
        for maker in {makers[f] for p in opened for f in p.parents if f in makers}:
            if watched.keys(altered=maker)[name] == before[name]:
                missed.append((name, maker))
    assert not missed, missed


def test_a_vae_that_was_replaced_is_used(watched):
    """Its copy in OUT/model, its pictures and its decoder."""
    weights = next((watched.model / "vae").glob("*.safetensors"))
    before, held = watched.keys(), weights.read_bytes()
    change(weights)
    after = watched.keys()
    weights.write_bytes(held)
    changed = {name for name in before if after[name] != before[name]}
    assert changed >= {"data", "prune", "distill", "samples", "export-decoder"}


def test_the_pipelines_class_is_in_the_keys(watched):
    index = watched.model / "model_index.json"
    before, held = watched.keys(), index.read_text()
    index.write_text(held.replace('"StableDiffusionPipeline"', '"AltDiffusionPipeline"'))
    after = watched.keys()
    index.write_text(held)
    assert all(after[name] != before[name] for name in ("data", "prune", "distill"))


def test_what_lies_beside_the_components_is_in_no_key(watched):
    (watched.model / "checkpoint-500").mkdir()
    (watched.model / "checkpoint-500" / "model.safetensors").write_bytes(b"0")
    (watched.model / "unet" / "old.bin").write_bytes(b"0")
    before = {name: done.key for name, done in watched.done.items()}
    assert watched.keys() == before
    shutil.rmtree(watched.model / "checkpoint-500")
