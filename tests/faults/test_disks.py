"""Full and forbidden disks: one line from every verb that names the right place."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import typer
from support.command import diffc_process as diffc
from support.disks import file_system, remount
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from diffc import cli
from diffc.cli.command import takes
from diffc.cli.flags.flag import WritingPlace
from diffc.cli.places import place_words
from diffc.cli.verbs import VerbRow
from diffc.errors import InputError, RequestError
from diffc.report.model import LoraFigures, Report
from diffc.report.writing import write_report
from diffc_export.disks import (
    check_place,
    disk_error,
    disk_errors,
    temporary_folder,
    write_array,
)
from diffc_runtime.files import utf8_path, write_bytes, write_text


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 256 kB, where this user may mount one."""
    with file_system(tmp_path / "disk", "size=256k") as place:
        yield place


def one_line(done, *words) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


class RustError(Exception):
    """As safetensors raises them."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/d/x"), "cannot write /d/x: No space"),
        (OSError(errno.EROFS, "Read-only file system", "/d/x"), "cannot write /d/x: Read-only"),
        (OSError(errno.EACCES, "Permission denied", "/d/x"), "read or write /d/x: Permission"),
        (OSError(errno.EIO, "Input/output error", "/d/x"), "/d/x: Input/output error"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/d/x"), "/d/x: File name too long"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/d/x"), "/d/x: Not a directory"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/d/x"), "/d/x: Is a directory"),
        (RustError("I/O error: No space left on device (os error 28)"), "cannot write /out: No sp"),
        (
            shutil.Error([("/m/a", "/out/a", "[Errno 28] No space left on device: '/out/a'")]),
            "cannot copy /m/a to /out/a: No space left on device",
        ),
    ],
)  # fmt: skip
def test_errors_of_a_disk_are_one_line(error, words):
    line = disk_error(error, (Path("/out"),))
    assert line is not None and words in str(line)
    assert "\n" not in str(line) and line.hint


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/not/ours"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        KeyError("x"),
        RuntimeError("shapes do not match"),
        OSError("a library's own words"),
    ],
)
def test_other_errors_stay_what_they_are(error):
    assert disk_error(error, (Path("/out"),)) is None
    with pytest.raises(type(error)), disk_errors(Path("/out")):
        raise error


def test_a_request_that_speaks_of_a_disk_is_not_said_again():
    with pytest.raises(RequestError, match="as it was"), disk_errors(Path("/out")):
        raise RequestError("as it was: No space left on device")


def test_a_library_that_gives_no_reason_on_a_full_disk(small_disk):
    (small_disk / "x").write_bytes(b"0" * 200_000)
    words = r"cannot write .*: No space left on device \(RuntimeError: odd words\)"
    with pytest.raises(InputError, match=words), disk_errors(small_disk):
        raise RuntimeError("odd words")


def test_the_full_one_of_two_disks_is_named(small_disk, tmp_path):
    (small_disk / "x").write_bytes(b"0" * 250_000)
    line = disk_error(
        RustError("I/O error: No space left on device"), (tmp_path / "out", small_disk / "cache")
    )
    assert str(line) == f"cannot write {small_disk / 'cache'}: No space left on device"


def test_a_folder_that_cannot_be_made_is_told_before(small_disk, tmp_path):
    remount(small_disk, "ro")
    with pytest.raises(InputError, match="Read-only file system") as caught:
        check_place(small_disk / "a" / "b", "--out")
    assert caught.value.hint == "choose another folder with --out"
    check_place(tmp_path / "new" / "folder", "--out")
    assert not (tmp_path / "new").exists()


def test_a_full_folder_for_temporary_files_is_named(small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    words = r"\(TMPDIR\): 1\.0 MB are needed, 0\.3 MB are free"
    with pytest.raises(InputError, match=words), temporary_folder(1_000_000):
        pass
    words = r"\(TMPDIR\): No space left on device"
    with pytest.raises(InputError, match=words), temporary_folder() as folder:
        (folder / "x").write_bytes(b"0" * 1_000_000)
    assert list(small_disk.iterdir()) == []
    full = OSError(errno.ENOSPC, "No space left on device", str(small_disk / "tmpab12cd_3" / "x"))
    assert "(TMPDIR): No space left" in str(disk_error(full))


@pytest.mark.parametrize("beyond", [-1, 0, 1, 76, 4000, 5000])
def test_an_array_is_written_whole_or_not(small_disk, beyond):
    """numpy's tofile says nothing of the last bytes, which a buffer holds back."""
    array = np.arange(256 * 1024 + beyond, dtype=np.uint8)
    if beyond > 0:
        full = pytest.raises(InputError, match="No space left on device")
        with full, disk_errors(small_disk), (small_disk / "x").open("wb") as file:
            write_array(array, file)
        return
    with (small_disk / "x").open("wb") as file:
        write_array(array, file)
    assert (small_disk / "x").read_bytes() == array.tobytes()


def test_an_error_beside_a_roomy_folder_keeps_its_words():
    with pytest.raises(InputError, match="the model is wrong"), temporary_folder():
        raise InputError("the model is wrong")


def test_a_build_in_a_full_folder_for_temporary_files(compiled, small_disk, tmp_path):
    out, _, cache = compiled
    shutil.copytree(out, tmp_path / "o")
    (small_disk / "x").write_bytes(b"0" * 100_000)
    done = diffc("build", tmp_path / "o", "--target", "ort-cpu", "--fresh",
                 TMPDIR=str(small_disk), DIFFC_CACHE=str(cache))  # fmt: skip
    one_line(done, f"no room for temporary files in {small_disk} (TMPDIR)", "set TMPDIR")
    assert "refuses" not in done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bundle OUT --to b", "or choose another --to"),
        ("baseline save OUT", "or choose another --to"),
        ("export OUT --layout optimum", "or choose another --to"),
        ("export OUT", "or move OUT to another disk, or choose another DIFFC_CACHE; what was"),
        ("build OUT", "or move OUT to another disk"),
        ("bench OUT", "or move OUT to another disk"),
        ("adapt l.safetensors OUT --engines", "or move OUT to another disk"),
        ("fetch google/x", "or set HF_HOME to another folder"),
        ("inspect demo", "or choose another DIFFC_CACHE"),
        ("baseline list", "or choose another DIFFC_CACHE"),
        ("cache clean --all", "or choose another DIFFC_CACHE"),
        ("nosuchverb", "or choose another DIFFC_CACHE"),
        ("search demo", "or choose another --out or DIFFC_CACHE"),
        ("generate OUT", "or choose another --out or DIFFC_CACHE"),
        (
            "adapt l.safetensors OUT",
            "or choose another --out or DIFFC_CACHE; what was done is kept",
        ),
        ("compile demo", "or choose another --out or DIFFC_CACHE; what was done is kept"),
    ],
)
def test_a_full_disk_is_answered_with_the_verbs_own_flag(line, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["diffc", *line.split()])
    error = disk_error(OSError(errno.ENOSPC, "No space left on device", "/d/x"))
    assert error is not None and cli._hint(error).startswith(f"free some space, {words}")


def test_a_new_verb_says_where_it_writes_by_its_own_flags(monkeypatch):
    """What @takes has of it is enough: no other file knows the verb's name."""

    @takes("model", "bundle_to")
    def to_(command, to):
        """Write."""

    @takes("model", place=WritingPlace("or choose another planet"))
    def away_(command):
        """Write elsewhere."""

    group = typer.Typer()
    group.command("inner")(to_)
    verbs = {"to": to_, "away": away_, "group": group}
    monkeypatch.setattr(VerbRow, "load", lambda row: verbs[row.name])
    monkeypatch.setattr("diffc.cli.app.VERBS", [VerbRow(name, "", "") for name in verbs])
    assert place_words(["to", "demo"]) == place_words(["group", "inner"])
    assert place_words(["to", "demo"]) == "or choose another --to"
    assert place_words(["away", "demo"]) == "or choose another planet"
    assert place_words(["group", "other"]) == place_words([]) != place_words(["to"])


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["baseline", "bundle", "report", "prune"])
def test_every_verb_names_a_full_disk(compiled, tiny_model, small_disk, verb):
    out, _, cache = compiled
    (small_disk / "x").write_bytes(b"0" * 230_000)
    to = small_disk / "b"
    command = {
        "baseline": ["baseline", "save", out, "--to", to],
        "bundle": ["bundle", out, "--server", "none", "--target", "ort-cpu", "--to", to],
        "report": ["report", out, "--html", to],
        "prune": ["prune", tiny_model, "--ratio", "0.4", "--out", to],
    }[verb]
    done = diffc(*command, DIFFC_CACHE=str(cache if verb != "prune" else small_disk / "c"))
    one_line(done, "No space left on device")


@pytest.mark.parametrize("verb", ["baseline", "report", "bundle"])
def test_every_verb_names_a_file_in_the_way(compiled, tmp_path, verb):
    out, _, cache = compiled
    (tmp_path / "f").write_text("x")
    to = tmp_path / "f" / "x"
    command = {
        "baseline": ["baseline", "save", out, "--to", to],
        "bundle": ["bundle", out, "--server", "none", "--target", "ort-cpu", "--to", to],
        "report": ["report", out, "--html", to],
    }[verb]
    one_line(diffc(*command, DIFFC_CACHE=str(cache)), str(tmp_path / "f"))
    assert (tmp_path / "f").read_text() == "x"


def test_a_page_onto_a_folder(compiled, tmp_path):
    out, _, cache = compiled
    (tmp_path / "emp").mkdir()
    one_line(diffc("report", out, "--html", tmp_path / "emp", DIFFC_CACHE=str(cache)), "emp")


def test_a_file_is_written_whole_or_not_at_all(small_disk):
    write_text(small_disk / "x", "before")
    with pytest.raises(InputError, match="No space"), disk_errors(small_disk):
        write_text(small_disk / "x", "y" * 1_000_000)
    assert (small_disk / "x").read_text() == "before"


CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_names_in_another_locale_reach_the_runtime(compiled, tmp_path):
    out, _, cache = compiled
    shutil.copytree(out, tmp_path / CAFE)
    code = (
        "import os, pathlib; from diffc_runtime.files import utf8_path\n"
        f"folder = next(p for p in pathlib.Path({str(tmp_path)!r}).iterdir() if 'caf' in p.name)\n"
        "from diffc_export.targets import target\n"
        "target('ort-cpu').load(folder / 'engines/ort-cpu/compressed', 1).close(); print('loaded')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, **ASCII, "DIFFC_CACHE": str(cache)},
    )  # fmt: skip
    assert done.stdout == "loaded\n", done.stderr


def test_names_in_another_locale_reach_converters_and_tokenizers(compiled, tmp_path):
    """Libraries in C++ and Rust: onnx's checker, and the package tokenizers."""
    shutil.copytree(compiled[0] / "onnx" / "dense", tmp_path / CAFE)
    words = Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?"))
    words.save(str(tmp_path / CAFE / "words.json"))
    code = (
        "import pathlib; from diffc_export.onnx.precision import convert_precision\n"
        "from diffc_runtime.prompt_plan import TokenizerFacts\n"
        "from diffc_runtime.tokens import Tokenizer\n"
        f"folder = next(p for p in pathlib.Path({str(tmp_path)!r}).iterdir() if 'caf' in p.name)\n"
        "print(Tokenizer(folder, TokenizerFacts('words.json', 1))(['a'], 2, 2).ids)\n"
        "print(convert_precision(folder, folder / 'fp16', 'fp16')['precision'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, **ASCII},
    )  # fmt: skip
    assert done.stdout == "[[0 1]]\nfp16\n", done.stderr


def test_a_name_that_is_no_utf8_is_told():
    with pytest.raises(InputError, match="is not UTF-8"):
        utf8_path(Path(os.fsdecode(b"/tmp/caf\xe9")))


def test_a_report_of_names_that_are_no_text_is_written(compiled, tmp_path):
    """A model's folder with a name of Latin 1 ended its run in a traceback, at the very end."""
    out = shutil.copytree(compiled[0], tmp_path / "out")
    report = Report.read(out)
    name = os.fsdecode(b"/models/caf\xe9")
    named = {"name": name, "weight": 1.0, "sha256": "0" * 64, "late": False, "left_out": []}
    changed = {"model": report.model.model_copy(update={"name": name}), "command": f"diffc {name}"}
    loras = [LoraFigures(**{**named, "name": Path(name).name})]
    write_report(report.model_copy(update={**changed, "loras": loras}), out)
    again = Report.read(out)
    assert again.model.name == "/models/caf\N{REPLACEMENT CHARACTER}"
    assert again.loras[0].name == "caf\N{REPLACEMENT CHARACTER}"
    for page in ("report.md", "report.html", "model/README.md"):
        assert "caf\N{REPLACEMENT CHARACTER}" in (out / page).read_text("utf-8")


def test_a_bundle_with_a_lora_of_any_name_in_another_locale(compiled, tmp_path):
    """Its README names the LoRA, and is UTF-8 wherever it is written."""
    out, to = shutil.copytree(compiled[0], tmp_path / "out"), tmp_path / "to"
    lora = out / "engines/ort-cpu/loras/compressed" / f"{CAFE}.npz"
    write_bytes(lora, b"")
    command = ("bundle", out, "--server", "none", "--target", "ort-cpu", "--to", to)
    done = diffc(*command, **ASCII, DIFFC_CACHE=str(compiled[2]))
    assert done.returncode == 0, done.stderr
    assert f"--lora {CAFE} " in (to / "README.md").read_text("utf-8")
    assert (to / "loras" / lora.name).is_file()


def test_a_file_of_any_name_is_written_in_another_locale(tmp_path):
    """It is first written beside its place, under a name that has its own in it."""
    code = (
        "import os, pathlib; from diffc_runtime.files import write_text\n"
        f"write_text(pathlib.Path({str(tmp_path)!r}, os.fsdecode({CAFE.encode()!r})), 'x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, **ASCII},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [CAFE]
