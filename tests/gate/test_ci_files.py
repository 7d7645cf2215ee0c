"""docs/ci: well-formed, and every diffc command in it is one that this diffc takes."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from diffc.cli.app import app
from diffc.recipe import CheckSection, resolve

CI = Path(__file__).parents[2] / "docs" / "ci"
ACTION = re.compile(r"^[\w-]+/[\w/-]+@v\d+$")


def github():
    return yaml.safe_load((CI / "github-actions.yml").read_text())


def gitlab():
    return yaml.safe_load((CI / "gitlab-ci.yml").read_text())


def lines_of_shell():
    for job in github()["jobs"].values():
        for step in job["steps"]:
            yield from step.get("run", "").splitlines()
    for job in gitlab().values():
        if isinstance(job, dict):
            yield from [*job.get("before_script", []), *job.get("script", [])]
    text = (CI / "local.md").read_text() + (CI.parent / "gate.md").read_text()
    yield from re.findall(r"(?m)^(diffc .*)$", text)
    for block in re.findall(r"```yaml\n(.*?)```", text, re.S):
        for repo in yaml.safe_load(block).get("repos", ()):
            yield from (hook["entry"] for hook in repo["hooks"])


def commands():
    return [line for line in lines_of_shell() if line.startswith("diffc ")]


def test_there_are_commands():
    assert sum(line.startswith("diffc check") for line in commands()) == 4


@pytest.mark.parametrize("line", commands())
def test_commands_are_taken(line):
    """Parsed by the real parser, down to the last option, without being run."""
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    context = command.make_context("diffc", list(words), resilient_parsing=False)
    while hasattr(command, "commands"):
        rest = context.protected_args + context.args if hasattr(context, "protected_args") else []
        name, command, rest = command.resolve_command(context, rest or words)
        context = command.make_context(name, list(rest), parent=context)
        words = rest
    assert context.command is command


@pytest.mark.parametrize(
    "line", ["diffc check out --base-line x", "diffc baseline save out --too x"]
)
def test_a_wrong_option_would_be_seen(line):
    with pytest.raises(Exception, match="No such option"):
        test_commands_are_taken(line)


def test_github_workflow_has_what_the_runner_asks_for():
    workflow = github()
    assert set(workflow[True]) == {"pull_request", "push"}  # YAML 1.1 reads the key `on` as true
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["steps"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert ACTION.match(step.get("uses", "a/b@v1"))


def test_gitlab_jobs_have_what_the_runner_asks_for():
    file = gitlab()
    for name in ("check", "baseline"):
        job = {**file[file[name]["extends"]], **file[name]}
        assert job["script"] and job["stage"] in file["stages"] and job["rules"]
        assert all(isinstance(line, str) for line in [*job["script"], *job["before_script"]])
    assert file["check"]["allow_failure"]["exit_codes"] == [3, 4]


def test_caches_are_where_diffc_keeps_its_own():
    assert github()["jobs"]["check"]["env"]["DIFFC_CACHE"].endswith("/.diffc-cache")
    assert gitlab()["variables"]["DIFFC_CACHE"].endswith("/.diffc-cache")
    assert ".diffc-cache" in gitlab()[".diffc"]["cache"][0]["paths"]


def test_the_recipe_shown_is_one():
    text = (CI.parent / "gate.md").read_text()
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    assert resolve(family="", flags=shown).check.max_slowdown == "3%"


def test_the_defaults_said_are_the_defaults():
    rows = re.findall(r"\| `--([\w-]+)` \| (.*?) \|", (CI.parent / "gate.md").read_text())
    defaults = CheckSection().model_dump()
    said = {flag.replace("-", "_"): words.split(":")[0] for flag, words in rows}
    assert len(said) == 6
    assert said == {name: defaults[name] or "reported only" for name in said}
