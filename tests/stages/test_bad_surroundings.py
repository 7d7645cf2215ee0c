"""Full and read-only disks, and data folders with broken images, through the command line."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count

import numpy as np
import pytest
import yaml
from PIL import Image
from support.command import diffc_in_process, diffc_process
from support.disks import file_system
from support.quick import QUICK


def diffc(*args, cache):
    return diffc_in_process(*args, DIFFC_CACHE=str(cache))


@pytest.fixture
def mount(tmp_path):
    """mount(options) -> a tmpfs, where this user may mount one."""
    with ExitStack() as stack:
        numbers = count()
        yield lambda options: stack.enter_context(
            file_system(tmp_path / f"disk{next(numbers)}", options)
        )


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump(QUICK))
    return path


def test_a_read_only_out_is_one_line(tiny_model, recipe, mount, tmp_path):
    disk = mount("size=1m,ro")
    done = diffc(
        "compile", tiny_model, "--recipe", recipe, "--out", disk / "out", cache=tmp_path / "cache"
    )
    assert done.returncode == 2
    assert f"cannot write {disk / 'out'}: Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on_later(
    tiny_model, recipe, mount, tmp_path
):
    disk = mount("size=64k")
    args = ["prune", tiny_model, "--recipe", recipe, "--out", tmp_path / "out"]
    done = diffc_process(*args, DIFFC_CACHE=str(disk / "cache"))
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out/pruned").exists()
    again = diffc(*args, cache=tmp_path / "cache")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out/pruned/pruning.json").exists()


def write_images(folder, n, size=16):
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(n):
        pixels = generator.integers(0, 255, (size, size), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.mark.slow
def test_broken_and_wrong_sized_images_are_skipped_and_counted(tiny_model, recipe, tmp_path):
    import json

    images = tmp_path / "images"
    write_images(images, 6)
    (images / "broken.png").write_bytes(b"no image")
    Image.new("L", (20, 20)).save(images / "large.png")
    out = tmp_path / "out"
    done = diffc(
        "plan", tiny_model, "--recipe", recipe, "--ratio", "0.3", "--data", images, "--out", out,
        cache=tmp_path / "cache",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((out / ".diffc/data.json").read_text())
    assert record["result"]["counts"] == "6 images used, 1 unreadable, 1 of another size"


@pytest.mark.slow
@pytest.mark.parametrize("content", ["nothing", "corrupt", "wrong size"])
def test_a_folder_without_a_usable_image_is_refused(tiny_model, recipe, tmp_path, content):
    images = tmp_path / "images"
    write_images(images, 2 if content == "wrong size" else 0, size=20)
    if content == "corrupt":
        (images / "broken.png").write_bytes(b"no image")
    done = diffc(
        "compile", tiny_model, "--recipe", recipe, "--data", images, "--out", tmp_path / "out",
        cache=tmp_path / "cache",
    )  # fmt: skip
    assert done.returncode == 2
    assert str(images) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_npz_data(tiny_model, recipe, tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros((4, 16, 16, 1), np.uint8))
    done = diffc(
        "plan", tiny_model, "--recipe", recipe, "--ratio", "0.3", "--out", tmp_path / "out",
        "--data", tmp_path / "images.npz", cache=tmp_path / "cache",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
