"""What the machine gives: variables of launches, home folders, caches, locks."""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
import sys

import pytest
from support.runs import compile_quickly, refusal

from diffc.errors import RequestError
from diffc.launch import is_launched, process_rank, without_leftovers
from diffc.measure.quality.base import hub_folder
from diffc.runner import Stage, StageRunner
from diffc.stage_outcomes import StageOutcome
from diffc_export.cache import cache_folder
from diffc_export.events import drain

LEFT_BY_CLUSTERS = [
    {"RANK": "1"},
    {"RANK": "1", "LOCAL_RANK": "1"},
    {"LOCAL_RANK": "0"},
    {"RANK": "1", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"},
    {"RANK": "1", "WORLD_SIZE": "2"},
    {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    {"RANK": "", "WORLD_SIZE": "two", "MASTER_ADDR": "127.0.0.1"},
    {"WORLD_SIZE": "4"},
    {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    {"PMI_RANK": "1", "PMI_SIZE": "2"},
]


@pytest.fixture(autouse=True)
def no_launch(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variables", LEFT_BY_CLUSTERS, ids=" ".join)
def test_single_variables_of_a_launch_are_no_launch(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not is_launched() and process_rank() == 0
    with without_leftovers():
        assert not {*variables} & {*os.environ} - {"MASTER_ADDR"}
        from diffc.data.processes import process_share

        assert process_share() == (0, 1)
    assert {name: os.environ[name] for name in variables} == variables


def test_a_whole_description_is_a_launch(monkeypatch):
    launch = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "1"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    assert is_launched() and process_rank() == 1
    with without_leftovers():
        assert os.environ["RANK"] == "1"


@pytest.mark.slow
def test_a_rank_alone_does_not_wait(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "3")
    compile_quickly(tiny_model, tmp_path / "o", "distill")
    assert (tmp_path / "o/model/pruning.json").exists()


def test_the_cache_knows_the_sign_for_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DIFFC_CACHE", "~/dc")
    assert cache_folder() == tmp_path / "dc"


def unknown_user(_uid):
    raise KeyError("uid not found")


def test_without_a_home_the_cache_needs_a_name(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "DIFFC_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown_user)
    with pytest.raises(RequestError, match="no home folder") as caught:
        cache_folder()
    assert "DIFFC_CACHE" in caught.value.hint
    monkeypatch.setenv("DIFFC_CACHE", "~/dc")
    with pytest.raises(RequestError, match="begins with a home folder"):
        cache_folder()


def test_without_a_home_weights_are_not_there(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown_user)
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # diffc asks without it
    assert not hub_folder().exists()


def test_a_quoted_home_in_a_flag_is_meant(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "diffc", "bench", "~/o"], capture_output=True, text=True,
        env={**os.environ, "HOME": str(home)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2 and f"there is no folder {home}/o" in done.stderr
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("place", ["out", "cache"])
@pytest.mark.parametrize("below", ["afile/sub", "afile/a/b"])
def test_a_folder_below_a_file_is_one_line(tiny_model, tmp_path, monkeypatch, place, below):
    (tmp_path / "afile").write_text("x")
    out = tmp_path / (below if place == "out" else "o")
    if place == "cache":
        monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / below))
    error = refusal(tiny_model, out)
    wrong = tmp_path / below
    assert str(error) == f"cannot write {wrong}: {tmp_path / 'afile'} is a file"
    assert (tmp_path / "afile").read_text() == "x" and not (tmp_path / "o").exists()


def test_a_cache_that_is_a_file_or_a_dangling_link(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("nowhere")
    for name, words in (("link", "is no folder"), ("file", "is a file")):
        (tmp_path / "file").write_text("x")
        monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / name))
        error = refusal(tiny_model, tmp_path / "o")
        assert str(error) == f"DIFFC_CACHE {tmp_path / name} {words}"
    assert not (tmp_path / "o").exists()


def do(runner: StageRunner) -> list[str]:
    calls: list[str] = []

    def run(inputs, folder):
        calls.append("done")
        (folder.out / "x").write_text("x")
        return StageOutcome()
        yield

    drain(runner.do(Stage("demo", 1, {}, run, StageOutcome, {"x": "x"})))
    return calls


@pytest.mark.parametrize("code", [37, 38, 95, 22])  # ENOLCK, ENOSYS, ENOTSUP, EINVAL on Linux
def test_a_disk_without_locks_does_without(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="a disk without locks"):
        assert do(StageRunner(tmp_path / "o", tmp_path / "c")) == ["done"]


def test_another_error_of_a_lock_is_one_line(tmp_path, monkeypatch):
    from diffc.errors import InputError

    def flock(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match="No space left on device"):
        do(StageRunner(tmp_path / "o", tmp_path / "c"))


@pytest.mark.parametrize("verb", [("bench", "o"), ("plan", "demo"), ("doctor",)], ids=" ".join)
def test_a_working_folder_that_is_gone_is_one_line(tmp_path, verb):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os; os.rmdir(os.getcwd()); from diffc.cli import main; main()"
    command = [sys.executable, "-c", code, *verb]
    done = subprocess.run(command, capture_output=True, text=True, cwd=gone)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "the working directory cannot be used: No such file or directory" in done.stderr
