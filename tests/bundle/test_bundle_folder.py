"""A folder that is not empty: refused, and never robbed of what diffc did not make."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffc.bundle.build import write_bundle
from diffc.errors import DiffcError, RequestError


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def to(tmp_path) -> Path:
    """A folder with somebody's model in it."""
    mine = tmp_path / "repo" / "mine" / "1" / "model.onnx"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    (tmp_path / "repo" / "notes.txt").write_text("mine too")
    return tmp_path / "repo"


def test_refuses_without_force(out, to):
    before = content(to)
    with pytest.raises(RequestError, match=r"^--to .* is not empty") as error:
        write_bundle(out, to, server="none")
    assert "--force" in error.value.hint
    assert content(to) == before


def test_forced_it_adds_and_touches_nothing_else(out, to):
    before = content(to)
    made = write_bundle(out, to, server="none", force=True)
    after = content(to)
    assert {k: after[k] for k in before} == before
    assert set(after) == set(before) | set(made.files)


def test_forced_again_it_replaces_what_it_made(out, to):
    first = write_bundle(out, to, server="triton", force=True)
    assert "denoiser/config.pbtxt" in first.files
    second = write_bundle(out, to, server="none", force=True)
    after = content(to)
    assert set(after) == {"mine/1/model.onnx", "notes.txt", *second.files}
    assert not (to / "denoiser").exists()
    assert write_bundle(out, to, server="none", force=True).files == second.files


def test_a_changed_file_is_the_users(out, to):
    write_bundle(out, to, server="triton", force=True)
    config = to / "pipeline" / "config.pbtxt"
    config.write_text(config.read_text() + "# four instances on our machines\n")
    before = content(to)
    with pytest.raises(
        RequestError, match=r"^--to: .*config\.pbtxt is in the way and was changed"
    ) as error:
        write_bundle(out, to, server="triton", force=True)
    assert error.value.hint == "move it, or choose another folder with --to"
    assert content(to) == before
    write_bundle(out, to, server="none", force=True)
    assert "four instances" in config.read_text()


def test_a_file_of_the_same_name_is_in_the_way(out, to):
    (to / "README.md").write_text("our repository")
    before = content(to)
    with pytest.raises(RequestError, match=r"^--to: .*README\.md is in the way and is not diffc's"):
        write_bundle(out, to, server="none", force=True)
    assert content(to) == before


@pytest.mark.parametrize("name", ["engine", "bundle.json", "README.md"])
def test_a_file_or_folder_of_another_kind_is_in_the_way(out, to, name):
    if name == "engine":
        (to / name).write_text("a file where a folder must be")
    else:
        (to / name).mkdir()
    before = content(to)
    with pytest.raises(RequestError, match=r"^--to: .* is in the way"):
        write_bundle(out, to, server="none", force=True)
    assert content(to) == before


@pytest.mark.parametrize(
    "manifest",
    [
        "not json",
        "[]",
        '{"format": 1, "made_by": "diffc 0.1", "files": {"../outside": "x", "/etc/passwd": "x"}}',
        '{"format": 1, "made_by": "somebody", "files": {"notes.txt": "x"}}',
    ],
)
def test_a_strange_manifest_gives_no_rights(out, to, manifest):
    outside = to.parent / "outside"
    outside.write_text("outside")
    (to / "bundle.json").write_text(manifest)
    before = content(to)
    try:
        write_bundle(out, to, server="none", force=True)
    except DiffcError:
        assert content(to) == before
    else:
        after = content(to)
        assert all(after[k] == v for k, v in before.items() if k != "bundle.json")
    assert outside.read_text() == "outside"


def test_a_file_where_the_folder_should_be(out, tmp_path):
    (tmp_path / "bundle").write_text("a file")
    with pytest.raises(RequestError, match=r"^--to: .* is a file, not a folder"):
        write_bundle(out, tmp_path / "bundle", server="none", force=True)


def test_a_file_above_the_folder_and_a_place_that_takes_nothing(out, tmp_path):
    (tmp_path / "file.txt").write_text("a file")
    with pytest.raises(RequestError, match=r"^--to: .*file\.txt is a file, not a folder"):
        write_bundle(out, tmp_path / "file.txt" / "sub" / "folder", server="none")
    with pytest.raises(RequestError, match=r"^--to: (cannot write beside|.*cannot be written)"):
        write_bundle(out, Path("/proc/bundle"), server="none")


def test_a_folder_of_somebody_elses(out, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(RequestError, match=r"^--to: .* cannot be written into"):
        write_bundle(out, tmp_path / "bundle", server="none")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_behind(out, tmp_path, monkeypatch):
    from diffc.bundle import plain

    def fail(source):
        raise OSError("disk full")

    monkeypatch.setattr(plain.readme, "plain_readme", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bundle(out, tmp_path / "bundle", server="none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["triton", "triton/", "models/../triton"])
def test_a_folder_that_hides_a_package_is_refused(out, tmp_path, monkeypatch, name):
    """In a working directory with a folder `triton`, `import torch._dynamo` fails."""
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="a folder named 'triton' breaks PyTorch") as caught:
        write_bundle(out, Path(name), server="none")
    assert "-models" in caught.value.hint and not (tmp_path / "triton").exists()
    write_bundle(out, Path("triton-models"), server="none")
