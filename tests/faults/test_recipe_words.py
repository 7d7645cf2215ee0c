"""What people write in a recipe: taken as meant, or refused with the key's name."""

from __future__ import annotations

import pytest

import diffc
from diffc.errors import DiffcError, InputError, RequestError
from diffc.recipe import Recipe, resolve


def recipe(tmp_path, text: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return resolve(family="", recipe=path)


@pytest.mark.parametrize(
    ("text", "section", "name", "value"),
    [
        ("measure: {explain: off}", "measure", "explain", "off"),
        ("measure: {explain: on}", "measure", "explain", "on"),
        ("measure: {explain: full}", "measure", "explain", "full"),
        ("measure: {server: none}", "measure", "server", None),
        ("measure: {server: off}", "measure", "server", None),
        ("build: {target: ort-cpu}", "build", "target", ("ort-cpu",)),
        ("build: {target: 'ort-cpu, openvino'}", "build", "target", ("ort-cpu", "openvino")),
        ("build: {batch: 4}", "build", "batch", (4,)),
        ("build: {batch: '1,4'}", "build", "batch", (1, 4)),
        ("build: {gpu: sm86}", "build", "gpu", ("sm86",)),
        ("export: {resolution: 32}", "export", "resolution", (32,)),
        ("export: {resolution: '32,48'}", "export", "resolution", (32, 48)),
        ("prune: {fixed: conv_in*}", "prune", "fixed", ("conv_in*",)),
        ("distill: {trackers: tensorboard}", "distill", "trackers", ("tensorboard",)),
        ("check: {max_slowdown: 5}", "check", "max_slowdown", "5%"),
        ("check: {max_slowdown: 0.05}", "check", "max_slowdown", "5%"),
        ("check: {max_slowdown: '0.05'}", "check", "max_slowdown", "5%"),
        ("check: {max_mean_slowdown: 7.5}", "check", "max_mean_slowdown", "7.5%"),
        ("distill: {learning_rate: 1e-4}", "distill", "learning_rate", 1e-4),
        ("prune:\nseed: 3", "prune", "ratio", 0.5),  # a section whose every line is a comment
    ],
)
def test_values_are_taken_as_meant(tmp_path, text, section, name, value):
    assert getattr(getattr(recipe(tmp_path, text), section), name) == value


def test_single_targets_have_the_same_words(tmp_path):
    own = recipe(tmp_path, "build: {each: {ort-cpu: {batch: 8, gpu: sm86}}}").build.of("ort-cpu")
    assert (own.batch, own.gpu) == ((8,), ("sm86",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("distill: {learning_rate: .inf}", "distill.learning_rate: inf is not a finite number"),
        ("measure: {seconds: .inf}", "measure.seconds: inf is not a finite number"),
        ("prune: {ratio: .nan}", "prune.ratio: nan is not a finite number"),
        ("distill: {losses: {output: 0}}", "every weight is 0"),
        ("build: {gpu: 'L4,,A100'}", "build.gpu: 'L4,,A100' has nothing at one side of a comma"),
        ("prune: {fixed: ['a,']}", "prune.fixed: 'a,' has nothing at one side of a comma"),
        ("export: {resolution: '32,'}", "export.resolution: '32,' has nothing at one side"),
        ("build: {target: []}", "build.target names no target"),
        ("build: {target: ''}", "build.target names no target"),
        ("build: {target: ort_cpu}", "did you mean ort-cpu?"),
        ("seed: -1", "seed: -1 is too small: at least 0"),
        ("seed: 99999999999999999999999", "seed: 99999999999999999999999 is too large: at most"),
        (
            "quality: {seed: 9223372036854775808}",
            "quality.seed: 9223372036854775808 is too large",
        ),
    ],
)
def test_what_cannot_be_meant_names_its_key(tmp_path, text, words):
    with pytest.raises(RequestError) as caught:
        recipe(tmp_path, text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prune: {ratio: 0.3}\nprune: {ratio: 0.5}\n", "'prune' stands twice, in lines 1 and 2"),
        ("prune:\n  ratio: 0.3\n  ratio: 0.5\n", "'ratio' stands twice, in lines 2 and 3"),
        ("prune: {ratio: 0.3\n", "line 2: "),
        ("prune: {ratio: *nothing}\n", "line 1: "),
        ("- a\n- b\n", "is not a mapping"),
        ("? [a, b]\n: 1\n", "line 1: "),
    ],
)
def test_a_damaged_file_is_one_line_with_the_place(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        recipe(tmp_path, text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_merge_keys_may_stand_beside_their_own(tmp_path):
    text = "prune: &base {ratio: 0.3, align: 4}\ndata: {images: 8}\n"
    assert recipe(tmp_path, text).prune.align == 4


def test_a_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    chosen = recipe(
        tmp_path, "data: {source: ~/images, prompts: ~/p.txt}\nquality: {reference: ~/r}"
    )
    assert chosen.data.source == str(tmp_path / "images")
    assert chosen.data.prompts == str(tmp_path / "p.txt")
    assert chosen.quality.reference == str(tmp_path / "r")
    assert resolve(family="", recipe="~/r.yaml") == chosen


def test_a_path_is_whole_from_whatever_folder_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "data: {source: images, prompts: p.txt}\nquality: {reference: ../r, features: f.onnx}"
    chosen = recipe(tmp_path, text)
    assert chosen.data.source == str(tmp_path / "images")
    assert chosen.data.prompts == str(tmp_path / "p.txt")
    assert chosen.quality.reference == str(tmp_path / "../r")
    assert chosen.quality.features == str(tmp_path / "f.onnx")
    words = recipe(tmp_path, "data: {source: synthetic}\nquality: {features: inception}")
    assert words == recipe(tmp_path, "seed: 0")


def test_a_folder_of_the_same_name_hides_no_shipped_recipe(tmp_path, monkeypatch):
    (tmp_path / "unet2d").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve(family="", recipe="unet2d").distill.losses.features > 0


@pytest.mark.parametrize("seed", [-1, 2**63, 99999999999999999999999])
def test_the_api_refuses_the_same_seeds(tiny_model, tmp_path, seed):
    with pytest.raises(RequestError, match=r"seed: -?[0-9]+ is too (small|large): at (least|most)"):
        diffc.compile(tiny_model, ratio=0.3, out=tmp_path / "o", options={"seed": seed})
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("stop", "hint"), [("nope", "known: "), ("prunes", "did you mean prune?")])
def test_a_stage_that_does_not_exist_is_refused(tiny_model, tmp_path, stop, hint):
    with pytest.raises(DiffcError, match=f"unknown stage '{stop}'") as caught:
        diffc.compile(tiny_model, ratio=0.3, out=tmp_path / "o", stop=stop)
    assert hint in str(caught.value.hint)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("targets", [[], (), ""])
def test_the_api_refuses_no_target(tiny_model, tmp_path, targets):
    with pytest.raises(RequestError, match="names no target"):
        diffc.compile(tiny_model, ratio=0.3, out=tmp_path / "o", target=targets)
    assert not (tmp_path / "o").exists()
