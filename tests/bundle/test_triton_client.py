"""The client that a model repository holds: what it writes is whole, or refused."""

from __future__ import annotations

import runpy
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from support.disks import file_system

from diffc_runtime.servers import triton

PAGE = 4096


@pytest.fixture
def client(monkeypatch):
    """What the client's file defines, without tritonclient."""
    monkeypatch.setitem(sys.modules, "tritonclient", ModuleType("tritonclient"))
    monkeypatch.setitem(sys.modules, "tritonclient.http", ModuleType("tritonclient.http"))
    (folder,) = triton.__path__
    return runpy.run_path(f"{folder}/client.py")


@pytest.fixture
def save(client):
    """The client's ``save_images``."""
    return client["save_images"]


def images(name: str) -> np.ndarray:
    """Noise, which no format makes small; as .npy its last page is what numpy holds back."""
    shape = (1, 71, 192, 3) if name.endswith(".npy") else (1, 96, 96, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("name", ["a.npy", "a.png", "a.jpg"])
def test_a_file_is_written_whole_or_not(save, tmp_path, name):
    """Given a file's name, Pillow loses a JPEG's last bytes in silence, and numpy an array's."""
    save(images(name), [tmp_path / name])
    size = (tmp_path / name).stat().st_size
    pages = -(-size // PAGE)
    for lacking in (0, 1):
        place = tmp_path / str(lacking)
        with file_system(place, f"size={(pages + 1 - lacking) * PAGE}") as disk:
            (disk / "before").write_bytes(b"0" * PAGE)
            (disk / name).write_bytes(b"")
            if not lacking:
                save(images(name), [disk / name])
                assert (disk / name).read_bytes() == (tmp_path / name).read_bytes()
                continue
            with pytest.raises(ValueError, match=rf"cannot write .*{name}: No space left"):
                save(images(name), [disk / name])
            assert sorted(path.name for path in disk.iterdir()) == sorted([name, "before"])
            assert (disk / name).read_bytes() == b"", "the file that was there stays"


def test_pictures_and_arrays_are_what_the_server_gave(save, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 3), np.uint8)
    for name in ("a.npy", "b.NPY"):
        save(pixels, [tmp_path / name])
        assert np.array_equal(np.load(tmp_path / name), pixels)
    save(pixels, [tmp_path / "a-0.png", tmp_path / "a-1.png"])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a-1.png")), pixels[1])
    save(pixels[..., :1], [tmp_path / "b-0.JPG", tmp_path / "b-1.JPG"])
    assert Image.open(tmp_path / "b-0.JPG").mode == "L"
    with pytest.raises(ValueError, match="latents, which are no pictures"):
        save(pixels.astype(np.float32), [tmp_path / "c-0.png", tmp_path / "c-1.png"])
    assert not list(tmp_path.glob("c*")) and not list(tmp_path.glob(".*"))


def test_a_number_that_the_server_cannot_be_sent_is_a_value_error(client):
    for name, kind in (("seed", "int64"), ("steps", "int32")):
        with pytest.raises(ValueError, match=rf"{name} {2**70} is too large for {kind}"):
            client["inputs"](**{name: 2**70})


def test_a_file_that_is_no_array_is_a_value_error(client, tmp_path):
    for content in (b"", b"PK\x03\x04, and no archive", b"no array"):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot read .*x\.npy: "):
            client["values_by_name"]([f"x={tmp_path / 'x.npy'}"])


def test_names_that_no_picture_can_have_are_refused(client, tmp_path):
    """Pillow reads .psd and writes none."""
    assert client["output_files"](tmp_path / "a.NPY", 2, False) == [tmp_path / "a.NPY"]
    for name in ("a.psd", "a.txt", "a"):
        with pytest.raises(ValueError, match=f"--out must end as a picture's.*not '{name}'"):
            client["output_files"](tmp_path / name, 1, False)
