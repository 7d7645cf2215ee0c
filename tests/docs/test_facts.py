"""Facts of pages and help that follow from the code, and that a change of it could leave behind."""

from __future__ import annotations

import re

import pytest
from support.pages import ROOT

from diffc.cli.flags import FLAGS
from diffc.errors import InputError
from diffc.models.shipped import shipped_models
from diffc.models.source import find_source
from diffc.stages import call_rate, frontier
from diffc_export import targets
from diffc_runtime.schedulers import NAMES

DOCS = ROOT / "docs"
IN_WORDS = {1: "a second", 4: "four", 5: "Five", 10: "ten"}


def words(page: str) -> str:
    """A page's text, its lines joined."""
    return " ".join((DOCS / page).read_text("utf-8").split())


def test_the_quick_start_has_every_extra():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    section = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "index.md").read_text("utf-8"), re.M)
    assert sorted(rows) == sorted(re.findall(r"^(\w+) = \[", section, re.M))


def test_what_a_quick_and_a_full_frontier_are():
    page, rounds = words("measured.md"), frontier.ROUNDS
    assert f"times every loop in {IN_WORDS[rounds['quick']]} rounds" in page
    assert f"judges at most {frontier.MOST_IMAGES['quick']} images of each" in page
    assert f"the engine makes the first {frontier.OF_REFERENCE['quick']} alone" in page
    full = f"{IN_WORDS[rounds['full']]} rounds and {frontier.MOST_IMAGES['full']} images"
    assert full in page


def test_how_long_calls_are_timed_for_an_estimate():
    both = IN_WORDS[round(2 * call_rate._SECONDS)]
    assert f"and {both} of calls gives their rate here" in words("verbs.md")
    assert f"times {both} of calls" in (ROOT / "diffc/cli/estimates.py").read_text("utf-8")


def test_which_stages_all_processes_of_a_launch_run():
    stages = (path.read_text("utf-8") for path in (ROOT / "diffc/stages").glob("*.py"))
    collective = sum("collective=" in text for text in stages)
    page = words("several-gpus.md")
    assert f"{IN_WORDS[collective]} stages run on all processes of a launch" in page


@pytest.mark.parametrize("name", targets.names())
def test_the_table_of_precisions_has_each_target(name):
    section = (DOCS / "measured.md").read_text("utf-8").split("## Choosing a precision")[1]
    row = next(line for line in section.splitlines() if f"`{name}`" in line)
    assert targets.target(name).precisions() <= set(re.findall(r"\w+", row))


def test_every_sampler_can_be_looked_up():
    row = re.search(r"^\| `scheduler` .*$", (DOCS / "images.md").read_text("utf-8"), re.M)
    assert row is not None
    assert set(NAMES) == set(re.findall(r"[\w+-]+", row[0].split("|")[3]))


@pytest.mark.parametrize("name", shipped_models())
def test_help_and_hints_name_each_model_that_ships(name):
    assert name in re.findall(r"[\w-]+", FLAGS["model"].help)
    with pytest.raises(InputError) as missing:
        find_source("nowhere-at-all")
    assert name in re.findall(r"[\w-]+", str(missing.value.hint))
