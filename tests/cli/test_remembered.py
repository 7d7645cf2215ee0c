"""plan and inspect: the same question again is answered from the cache, without PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.command import diffc_in_process as diffc

from diffc.cli import remembered as module
from diffc.cli.inspect import _scores_file
from diffc.cli.remembered import remembered
from diffc.models.source import find_source
from diffc.output import write_lock_of
from diffc.recipe import resolve
from diffc.stage_records import STATE
from diffc.stages.importance import SCORES
from diffc_export.cache import cache_folder


@pytest.fixture
def ask(tiny_model, tmp_path):
    """Asks one question, and counts how often it was worked out."""
    calls = []

    def answer(verb="plan", model=tiny_model, ratio=0.4, scores=tmp_path / "none"):
        recipe = resolve(family="UNet2DModel", flags={"prune": {"ratio": ratio}})

        def compute():
            calls.append(verb)
            return {"number": len(calls)}

        return remembered(verb, find_source(model), recipe, scores, compute)["number"]

    return answer


def test_the_same_question_is_worked_out_once(ask):
    assert [ask(), ask(), ask()] == [1, 1, 1]


def test_other_questions_are_worked_out_anew(ask, other_model, tmp_path, monkeypatch):
    scores = tmp_path / "scores"
    scores.write_bytes(b"1")
    numbers = [ask(), ask(verb="inspect"), ask(ratio=0.3), ask(model=other_model)]
    numbers.append(ask(scores=scores))
    scores.write_bytes(b"2")
    numbers.append(ask(scores=scores))
    monkeypatch.setattr(module, "_code", lambda: [("changed.py", 1, 1)])
    numbers.append(ask())
    assert numbers == [1, 2, 3, 4, 5, 6, 7]


def test_a_plan_is_made_anew_where_its_target_wants_other_widths(ask, monkeypatch):
    numbers = [ask(), ask(verb="inspect")]
    monkeypatch.setattr("diffc.stages.plan.alignment", lambda _: 5)
    assert [*numbers, ask(), ask(verb="inspect")] == [1, 2, 3, 2]


def test_a_plan_counts_importance_of_its_own_options_alone(tiny_model, other_model, tmp_path):
    out, source = tmp_path / "OUT", find_source(tiny_model)
    model = {"name": "m", "folder": str(source.folder.resolve()), "class_name": "X", "digest": "d"}
    write_lock_of(out, model, resolve(family=""), {})
    scores = out / STATE / SCORES
    scores.parent.mkdir()
    scores.touch()
    for flags, counts in (
        ({"prune": {"ratio": 0.3}, "distill": {"steps": 7}}, True),
        ({"prune": {"importance": {"gradient_accumulation": 2}}}, True),
        ({"prune": {"importance": {"method": "magnitude"}}}, False),
        ({"prune": {"importance": {"threshold": 0.2}}}, False),
        ({"data": {"images": 7}}, False),
        ({"seed": 1}, False),
    ):
        recipe = resolve(family="", flags=flags)
        assert (_scores_file(source, recipe, out) == scores) is counts
        assert counts or not _scores_file(source, recipe, out).exists()
    assert _scores_file(find_source(other_model), resolve(family=""), out) != scores


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_damaged_answer_is_worked_out_again(ask, text):
    assert ask() == 1
    (path,) = (cache_folder() / "answers").iterdir()
    path.write_text(text)
    assert [ask(), ask()] == [2, 2]


def test_a_changed_config_is_another_question(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    first = diffc("inspect", model, "--json")
    config = model / "unet" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "sample_size": 32}))
    second = diffc("inspect", model, "--json")
    macs = [json.loads(one.stdout)["model"]["macs"] for one in (first, second)]
    assert macs[0] < macs[1]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["plan", "inspect"])
def test_asked_again_it_gives_the_same_and_imports_no_torch(verb, tiny_model, tmp_path):
    first = diffc(verb, tiny_model, "--json")
    assert first.returncode == 0, first.stderr
    code = (
        "import sys\n"
        "from diffc.cli import main\n"
        f"sys.argv = ['diffc', {verb!r}, {str(tiny_model)!r}, '--json']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    again = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)


def test_a_written_plan_is_shown_without_torch(compiled):
    code = (
        "import sys\n"
        "from diffc.cli import main\n"
        f"sys.argv = ['diffc', 'plan', {str(compiled[0])!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "estimates, not measured" in done.stdout


@pytest.mark.slow
def test_a_plan_without_importance_says_what_a_run_will_do(tiny_model):
    done = diffc("plan", tiny_model, "--ratio", "0.4")
    words = " ".join(done.stdout.split())
    assert "uniform widths, from the config alone" in words
    assert "its allocation is latency or global" in words
    done = diffc("plan", tiny_model, "--ratio", "0.4", "--allocate", "uniform")
    assert "its allocation" not in done.stdout
