"""docs/ci: well-formed, and every diffc command in it is one that this diffc takes."""

import os
import re
import shlex
import subprocess
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
            for lines in [*job.get("before_script", []), *job.get("script", [])]:
                yield from lines.splitlines()
    text = (CI / "local.md").read_text() + (CI.parent / "gate.md").read_text()
    yield from re.findall(r"(?m)^(diffc .*)$", text)
    for block in re.findall(r"```yaml\n(.*?)```", text, re.S):
        for repo in yaml.safe_load(block).get("repos", ()):
            yield from (hook["entry"] for hook in repo["hooks"])


def commands():
    lines = (line.strip().removesuffix(" || code=$?") for line in lines_of_shell())
    return [line for line in lines if line.startswith("diffc ")]


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


def github_check():
    """As the runner runs it: bash -e, the expressions of the file replaced."""
    steps = github()["jobs"]["check"]["steps"]
    return next(step["run"] for step in steps if step.get("name") == "Check it against main")


def gitlab_check():
    """The lines of a job are one script; the runner stops at the first that fails."""
    return "\n".join(gitlab()["check"]["script"])


CHECKS = {"github": github_check, "gitlab": gitlab_check}


def run_check(host, folder, code, baseline):
    """The exit code of the job and what it printed, with a diffc that ends with ``code``."""
    (folder / "diffc").write_text(f"#!/bin/sh\necho judged\nexit {code}\n")
    (folder / "diffc").chmod(0o755)
    if baseline:
        (folder / "baselines" / "main").mkdir(parents=True)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "CI_DEFAULT_BRANCH": "main",
           "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}  # fmt: skip
    script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", CHECKS[host]()]
    run = subprocess.run(script, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout


@pytest.mark.parametrize("host", CHECKS)
def test_a_first_request_passes_with_a_note(host, tmp_path):
    code, printed = run_check(host, tmp_path, 2, baseline=False)
    assert code == 0 and "nothing to compare with yet" in printed and "judged" not in printed


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 70])
@pytest.mark.parametrize("host", CHECKS)
def test_a_noisy_runner_warns_and_a_regression_fails(host, code, tmp_path):
    ended, printed = run_check(host, tmp_path, code, baseline=True)
    assert "judged" in printed
    if host == "github":
        assert ended == (0 if code in (3, 4) else code)
        assert ("::warning::" in printed) == (code in (3, 4))
    else:
        assert ended == code  # allow_failure turns 3 and 4 into a warning
