"""What is searched over, as people name it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from diffc.data.recipe_of_model import recipe_of_model
from diffc.errors import DiffcError
from diffc.models.source import find_source
from diffc.recipe import Recipe, validate
from diffc.stages import fit_memory
from diffc.stages.fit_memory import SECTIONS, section_at
from diffc.trials.contest import Entry
from diffc.trials.goals import Goals, for_any_loop
from diffc.trials.outcome import _command
from diffc.trials.request import SearchRequest
from diffc.trials.request import space_of as request_space
from diffc.trials.space import Space, words_of


@pytest.fixture(scope="module")
def source(tiny_model):
    return find_source(tiny_model)


def space_of(source, recipe=None, **given):
    return Space.of(source, recipe or Recipe(), given)


def test_every_axis_has_defaults(source):
    space = space_of(source)
    assert space.values["ratio"] == ("0.2", "0.35", "0.5")
    assert space.values["precision"][0] == "fp32"
    assert len(space.values["loop"]) == 5
    count = 3 * len(space.values["precision"]) * 5
    assert len(space.candidates) == len(set(space.candidates)) == count
    learned = validate(Recipe, {"distill": {"aim": "loop"}}, "test")
    assert space_of(source, learned).values["loop"] == ("own:4", "own:2", "own:1")


@pytest.mark.parametrize("aim", ["all-steps", "loop"])
def test_a_candidates_command_trains_as_the_search_does(aim):
    """The demo's own recipe trains for one loop, and a search for any unless it is told."""
    source = find_source("demo")
    options = {"distill": {"aim": aim}} if aim == "loop" else {}
    recipe = recipe_of_model(source, None, for_any_loop(options, None))
    space = Space.of(source, recipe, {"ratio": ["0.3"], "loop": ["own:2"], "precision": ["fp32"]})
    (choice,) = space.candidates
    words = shlex.split(_command(source, space, Entry(choice, choice, 1.0, {})))
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    typed = {"distill": {"aim": flags.get("--distill-for")}}
    assert recipe_of_model(source, None, typed).distill.aim == space.apply(choice).distill.aim


def test_a_candidate_is_a_recipe(source):
    space = space_of(source, ratio=["35%"], precision=["FP32"], loop=["DDIM:4@trailing"])
    (choice,) = space.candidates
    assert words_of(choice) == "0.35 fp32 ddim:4@trailing"
    recipe = space.apply(choice)
    assert (recipe.prune.ratio, recipe.build.precision) == (0.35, "fp32")
    assert recipe.loops == ("ddim:4@trailing",)


def test_depth_is_searched_over_where_it_is_named(source):
    space = space_of(source, ratio=["0.5"], precision=["fp32"], loop=["ddim:4"],
                     cut=["Depth, width", "width"])  # fmt: skip
    assert space.size_words() == "1 ratio x 2 cuts x 1 precision x 1 loop"
    both, narrow = space.candidates
    assert words_of(both) == "0.5 width,depth fp32 ddim:4"
    assert [space.apply(one).prune.cut for one in (both, narrow)] == ["width,depth", "width"]
    assert len({space.trained(one) for one in space.candidates}) == 2
    assert not space.no_worse(both, narrow) and not space.no_worse(narrow, both)
    assert "cut" not in space_of(source).values


def test_a_cut_that_cannot_be_is_refused(source):
    with pytest.raises(DiffcError, match="height is none of width, depth or width,depth"):
        space_of(source, cut=["height"])
    uniform = validate(Recipe, {"prune": {"allocate": "uniform"}}, "test")
    space = space_of(source, uniform, cut=["width,depth"])
    with pytest.raises(DiffcError, match="uniform widths rank no branch"):
        space.apply(space.candidates[0])


def test_what_a_training_is_for_depends_on_the_aim(source):
    values = {"ratio": ["0.2", "0.5"], "precision": ["fp32"], "loop": ["own:2", "own:1"]}
    learned = validate(Recipe, {"distill": {"aim": "loop"}}, "test")
    plain, by_loop = space_of(source, **values), space_of(source, learned, **values)
    for space, trainings in ((plain, 2), (by_loop, 4)):
        assert len({space.trained(one) for one in space.candidates}) == trainings
        assert len({space.network(one) for one in space.candidates}) == 2


def test_what_is_expected_of_each_axis(source):
    space = space_of(source, ratio=["0.2", "0.5"], precision=["fp32", "fp16"],
                     loop=["ddim:8", "ddim:4", "dpm++:4"])  # fmt: skip
    by_name = {words_of(one): one for one in space.candidates}
    gentle = by_name["0.2 fp32 ddim:8"]
    assert all(space.no_worse(gentle, one) for name, one in by_name.items() if "dpm" not in name)
    assert not space.no_worse(gentle, by_name["0.5 fp16 dpm++:4"])  # other samplers: unknown
    assert not space.no_worse(by_name["0.5 fp32 ddim:8"], by_name["0.2 fp32 ddim:4"])


@pytest.mark.parametrize(
    ("axis", "text", "words"),
    [
        ("ratio", "half", "--ratio half: not a share"),
        ("ratio", "0", "not a share between 0 and 1"),
        ("ratio", "50", "not a share between 0 and 1"),
        ("precision", "fp12", "unknown precision 'fp12'"),
        ("precision", "auto", "unknown precision 'auto'"),
        ("loop", "dmp++:8", "did you mean"),
        ("loop", "ddim:0", "steps must be a whole number from 1"),
        ("loop", "ddim", "names its steps"),
    ],
)
def test_what_is_no_value_is_refused(source, axis, text, words):
    with pytest.raises(DiffcError) as caught:
        space_of(source, **{axis: [text]})
    assert words in str(caught.value)


def test_too_many_points_are_refused(source):
    ratios = [f"{i / 1000:g}" for i in range(1, 200)]
    with pytest.raises(DiffcError, match="at most 500"):
        space_of(source, ratio=ratios)


@pytest.mark.parametrize("memory", ["100GB", "48MB"])
def test_all_candidates_have_the_settings_with_which_the_largest_fits(source, monkeypatch, memory):
    rows = {"importance": 1, "distill": 2, "distill-loop": 2}

    def counted(_source, recipe):
        """Bytes in proportion to the rows, and to what a ratio leaves of the network."""
        left = 1 - recipe.prune.ratio
        return {
            stage: int(
                rows[stage] * left * 1e6 * -(-section.batch // section.gradient_accumulation)
            )
            for stage, path in SECTIONS.items()
            for section in [section_at(recipe, path)]
        }

    monkeypatch.setattr(fit_memory, "call_bytes", counted)
    monkeypatch.setattr(fit_memory, "gpus", lambda: ("a GPU",))
    options = {"memory": memory, "distill": {"batch": 64}, "build": {"target": "ort-cpu"}}
    recipe = validate(Recipe, options, "test")
    given = {"ratio": ["0.5", "0.1"], "precision": ["fp32"], "loop": ["ddim:2"]}
    space = request_space(SearchRequest(source, recipe, Goals(), given, Path("out")))
    pieces = {space.apply(one).distill.gradient_accumulation for one in space.candidates}
    assert pieces == ({1} if memory == "100GB" else {4})
    assert bool(space.notes) == (memory != "100GB")
    least = recipe.model_copy(update={"memory": "1MB"})
    with pytest.raises(DiffcError, match="--memory 1MB"):
        request_space(SearchRequest(source, least, Goals(), given, Path("out")))
