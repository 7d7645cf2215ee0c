"""Paths that no disk has: one line that names the flag or the argument, and nothing is run."""

from __future__ import annotations

import pytest
from support.command import diffc_in_process

import diffc
from diffc.errors import RequestError
from diffc.output import default_out
from diffc_runtime import open_bundle
from diffc_runtime.files import new_folder, no_place, short_name, write_text

LONG = "a" * 300


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"compile {LONG}", "MODEL"),
        (f"compile demo --out {LONG}", "--out"),
        (f"compile demo --out new/{LONG}/o", "--out"),
        (f"compile demo --recipe {LONG}.yaml", "recipe"),
        (f"compile demo --recipe {LONG}", "recipe"),
        (f"compile demo --data {LONG}", "--data"),
        (f"compile demo --prompts {LONG}", "--prompts"),
        (f"compile demo --lora {LONG}:0.5", "--lora"),
        (f"inspect {LONG}", "MODEL"),
        (f"report {LONG}", "OUT"),
        (f"report OUT --html {LONG}", "--html"),
        (f"check OUT --baseline {LONG}", "--baseline"),
        (f"bundle OUT --to {LONG}", "--to"),
        (f"adapt {LONG} OUT", "lora"),
        (f"generate {LONG}", "OUT"),
        (f"generate OUT --image {LONG}", "--image"),
        (f"generate OUT --mask {LONG}", "--mask"),
        (f"generate OUT --out {LONG}.png", "--out"),
        (f"generate OUT --n 20 --out {'a' * 250}.png", "--out"),
    ],
)
def test_a_name_that_is_too_long_is_one_line_with_its_flag(tmp_path, monkeypatch, line, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "OUT").mkdir()
    (tmp_path / "OUT" / "recipe.lock.yaml").write_text(
        "format: 1\nmodel: {name: a, folder: b, class_name: c, digest: d}\nrecipe: {}\nstages: {}\n"
    )
    done = diffc_in_process(*line.split())
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) <= 2
    assert lines[0].startswith(f"diffc: {name}: the name 'aaaaa"), lines
    assert "bytes, and at most 255 fit" in lines[0] and len(lines[0]) < 120
    assert [path.name for path in tmp_path.iterdir()] == ["OUT"]


def test_a_cache_of_such_a_name(tmp_path):
    done = diffc_in_process("cache", DIFFC_CACHE=str(tmp_path / LONG))
    assert done.returncode == 2 and done.stderr.startswith("diffc: DIFFC_CACHE: the name 'aaaa")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (LONG, "the name 'aaaaaaaaaaaaaaaaaaaa...' has 300 bytes, and at most 255 fit"),
        (f"new/{LONG}/o", "has 300 bytes, and at most 255 fit"),
        ("ä" * 128, "has 256 bytes"),
        ("/".join(["a" * 100] * 41), "it has 4140 bytes, and at most 4095 fit"),
        ("a\0b", "a character that no file's name has"),
        ("a\ud800b", "a character that no file's name has"),
    ],
)
def test_the_same_in_python(path, reason):
    for call, name in (
        (diffc.pipeline, "out"),
        (open_bundle, "folder"),
        (diffc.load, "MODEL"),
        (lambda path: diffc.compile("demo", out=path), "out"),
        (lambda path: diffc.compile(path), "MODEL"),
        (lambda path: diffc.compile("demo", recipe=path), "recipe"),
        (lambda path: diffc.compile("demo", options={"data": {"source": path}}), "data.source"),
        (lambda path: diffc.compile("demo", options={"loras": [path]}), "loras"),
    ):
        with pytest.raises(RequestError) as caught:
            call(path)
        assert str(caught.value).startswith(f"{name}: ") and reason in str(caught.value)


def test_a_name_that_just_fits_is_written(tmp_path):
    """What is made beside it first has a name with more."""
    for name in ("a" * 255, "ä" * 127):
        assert no_place(name) is None
        write_text(tmp_path / name, "content")
        with new_folder(tmp_path / f"{name[:-1]}b") as folder:
            (folder / "inside").write_text("x")
        with new_folder(tmp_path / f"{name[:-1]}b"):
            pass
    assert short_name("ä" * 127) == "ä" * 100
    assert no_place(default_out("b" * 250, 0.5)) is None
