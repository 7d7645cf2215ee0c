"""What a run reads and works out again and again is read and worked out once."""

import os
from dataclasses import dataclass

import pytest
import yaml

from diffc import runner
from diffc.errors import InputError
from diffc.models import files
from diffc.models.files import known_digest
from diffc.recipe import yaml_file
from diffc.stage_outcomes import ExportOutcome
from diffc_runtime.files import file_digest

LONG_AGO = 10**9  # ns since 1970


@pytest.fixture
def reads(monkeypatch):
    """The files that are read for their digest."""
    paths = []
    monkeypatch.setattr(files, "file_digest", lambda path: paths.append(path) or file_digest(path))
    return paths


def test_a_file_is_hashed_once_until_it_is_written(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(files, "_TELLING_NS", 0)
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
