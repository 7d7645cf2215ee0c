"""An engine's threads: those of the machine that loads it, by its affinity and its cgroup."""

import json

import pytest

from diffc.errors import RequestError
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_export.targets.engine import read_info
from diffc_runtime import machine
from diffc_runtime.libraries import ort as library


@pytest.fixture
def quota(tmp_path):
    """A function: /proc/self/cgroup's line, files below the root -> the quota that is read."""

    def read(line, files=()):
        (tmp_path / "membership").write_text(f"11:memory:/x\n{line}\n")
        for name, content in dict(files).items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        return machine.cpu.cpu_quota(tmp_path / "membership", tmp_path / "root")

    return read


def test_no_limit(quota):
    assert quota("0::/a/b") is None
    assert quota("0::/a/b", {"a/cpu.max": "max 100000", "a/b/cpu.max": "max 100000"}) is None


def test_version_two(quota):
    assert quota("0::/a/b", {"a/b/cpu.max": "150000 100000"}) == 2
    assert quota("0::/", {"cpu.max": "50000 100000"}) == 1


def test_the_tightest_of_a_group_and_those_above_holds(quota):
    files = {"a/cpu.max": "100000 100000", "a/b/cpu.max": "400000 100000"}
    assert quota("0::/a/b", files) == 1


def test_version_one(quota):
    files = {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}
    # a container's group by its name outside, which is not there inside
    assert quota("4:cpu,cpuacct:/docker/1234", files) == 3
    assert quota("4:cpu,cpuacct:/", {**files, "cpu/cpu.cfs_quota_us": "-1"}) is None


def test_where_there_are_no_groups(tmp_path):
    assert machine.cpu.cpu_quota(tmp_path / "none", tmp_path) is None


def test_a_quota_limits_the_cores(monkeypatch):
    affinity = machine.cpu.cores()
    monkeypatch.setattr(machine.cpu, "cpu_quota", lambda: 1)
    assert machine.cpu.cores() == 1
    monkeypatch.setattr(machine.cpu, "cpu_quota", lambda: 1000)
    assert machine.cpu.cores() == affinity


def test_what_was_not_asked_for_is_not_written_down(folder, tmp_path):
    for name in ("ort-cpu", "openvino", "fake"):
        if not target(name).status().buildable:
            continue
        drain(target(name).build(folder, BuildOptions(), tmp_path / name))
        info = read_info(tmp_path / name)
        assert info.threads is None
        assert "INFERENCE_NUM_THREADS" not in info.details.get("settings", {})
        drain(target(name).build(folder, BuildOptions(threads=1), tmp_path / name))
        assert read_info(tmp_path / name).threads == 1


def test_an_engine_from_a_larger_machine_takes_what_is_here(folder, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    drain(target("ort-cpu").build(folder, BuildOptions(threads=1), tmp_path / "e"))
    content = json.loads((tmp_path / "e" / "engine.json").read_text())
    (tmp_path / "e" / "engine.json").write_text(json.dumps({**content, "threads": 64}))
    asked = []
    options = library.session_options
    monkeypatch.setattr(
        library, "session_options", lambda n, *file: asked.append(n) or options(n, *file)
    )
    target("ort-cpu").load(tmp_path / "e")
    target("ort-cpu").load(tmp_path / "e", threads=1)
    assert asked == [machine.cpu.cores(), 1]


@pytest.mark.parametrize("name", ["ort-cpu", "openvino", "torch"])
def test_more_threads_than_cores_are_refused(folder, tmp_path, name):
    if not target(name).status().buildable:
        pytest.skip(target(name).status().reason)
    many, cores = machine.cpu.cores() + 1, machine.cpu.cores()
    words = f"{many} threads were asked for, this process may use {cores} cores"
    with pytest.raises(RequestError, match=words) as caught:
        options = BuildOptions(threads=many, model="demo")
        drain(target(name).build(folder, options, tmp_path / "e"))
    assert f"--threads {cores} or fewer" in caught.value.hint
    if name != "torch":
        drain(target(name).build(folder, BuildOptions(), tmp_path / "e"))
        with pytest.raises(RequestError, match=words):
            target(name).load(tmp_path / "e", threads=many)
