"""What a run reads and works out again and again is read and worked out once."""

import os
from dataclasses import dataclass

import pytest
import yaml

from diffc import digests, runner
from diffc.digests import known_digest
from diffc.errors import InputError
from diffc.recipe import yaml_file
from diffc.stage_outcomes import ExportOutcome
from diffc_runtime.files import file_digest

LONG_AGO = 10**9  # ns since 1970


@pytest.fixture
def reads(monkeypatch):
    """The files that are read for their digest."""
    paths = []
    monkeypatch.setattr(
        digests, "file_digest", lambda path: paths.append(path) or file_digest(path)
    )
    return paths


def test_a_file_is_hashed_once_until_it_is_written(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(digests, "_TELLING_NS", 0)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert known_digest(path) == known_digest(path) == file_digest(path)
    assert len(reads) == 1
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system has ticks
        path.write_bytes(b"two")
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert known_digest(path) == file_digest(path) and len(reads) == 2


def test_a_file_that_was_just_written_is_hashed_each_time(tmp_path, reads):
    """Two changes within a tick of the file system's clock have the same time."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    first = known_digest(path)
    path.write_bytes(b"two")
    assert known_digest(path) != first and len(reads) == 2


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file whose digest later processes know, in a cache of its own."""
    monkeypatch.setattr(digests, "KEPT_FROM", 3)
    monkeypatch.setattr(digests, "_TELLING_NS", 0)
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))
    digests._digest_of.cache_clear()
    path = tmp_path / "model.onnx"
    path.write_bytes(b"one")
    return path


def in_another_process(path):
    digests._digest_of.cache_clear()
    return known_digest(path)


def test_a_large_file_is_hashed_once_for_all_processes(large, reads, tmp_path):
    first = known_digest(large)
    assert in_another_process(large) == first == file_digest(large) and len(reads) == 1
    assert len(list((tmp_path / "cache" / "digests").iterdir())) == 1


def test_a_file_with_another_ones_size_and_time_is_hashed_again(large, reads):
    """Whoever puts the time of writing back leaves another time of change."""
    first, before = known_digest(large), large.stat()
    while large.stat().st_ctime_ns == before.st_ctime_ns:
        large.write_bytes(b"two")
        os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert in_another_process(large) == file_digest(large) != first and len(reads) == 2


def test_a_file_in_the_place_of_another_is_hashed_again(large, reads):
    first = known_digest(large)
    new = large.with_name("new")
    new.write_bytes(b"two")
    os.utime(new, ns=(large.stat().st_atime_ns, large.stat().st_mtime_ns))
    new.replace(large)
    assert in_another_process(large) == file_digest(large) != first


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"path": 1, "state": 2, "sha256": 3}'])
def test_a_damaged_record_of_a_digest_is_made_again(large, reads, tmp_path, content):
    first = known_digest(large)
    (record,) = (tmp_path / "cache" / "digests").iterdir()
    record.write_text(content)
    assert in_another_process(large) == first and len(reads) == 2
    assert in_another_process(large) == first and len(reads) == 2


def test_a_cache_that_cannot_be_written_costs_a_reading(large, reads, tmp_path):
    (tmp_path / "cache").write_text("a file where the cache's folder should be")
    assert known_digest(large) == in_another_process(large) == file_digest(large)
    assert len(reads) == 2


def test_a_digest_of_a_file_that_is_gone(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        known_digest(tmp_path / "gone")


def test_a_stage_works_its_key_out_once(monkeypatch):
    @dataclass(frozen=True)
    class Inputs:
        number: int

    calls, keyed = [], runner.keyed
    monkeypatch.setattr(runner, "keyed", lambda value: calls.append(value) or keyed(value))
    stage = runner.Stage("export", 1, Inputs(3), lambda _inputs, _folder: iter(()), ExportOutcome)
    assert stage.key == stage.key and stage.recorded == {"number": 3}
    assert calls == [Inputs(3)]


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
def test_yaml_is_read_by_libyaml_and_faults_are_told_by_pyyaml(tmp_path, monkeypatch):
    kinds, parse = [], yaml_file._parse_by
    monkeypatch.setattr(
        yaml_file, "_parse_by", lambda kind, text: kinds.append(kind) or parse(kind, text)
    )
    good, broken = tmp_path / "good.yaml", tmp_path / "broken.yaml"
    good.write_text("prune: {ratio: 0.25}  # read quickly\n")
    broken.write_text("prune: {ratio: 0.25\nquality: 3: 4\n")
    assert yaml_file.read_yaml(good) == {"prune": {"ratio": 0.25}}
    assert [issubclass(kind, yaml.CSafeLoader) for kind in kinds] == [True]
    with pytest.raises(yaml.YAMLError) as fault:
        yaml.safe_load(broken.read_text())
    with pytest.raises(InputError, match=f"line 2: {fault.value.problem}"):
        yaml_file.read_yaml(broken)
