"""Reading image folders and .npz files: values, skipping, counting, failing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffc.data.images import read_images
from diffc.errors import InputError

GREY, RGB = (1, 8, 8), (3, 8, 8)


def picture(seed: int, size=(8, 8), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes; one file is broken, one is truncated, one is of another size."""
    for i in range(4):
        target = tmp_path / "ab"[i % 2] / f"{i}.png"
        target.parent.mkdir(exist_ok=True)
        picture(i).save(target)
    (tmp_path / "a" / "broken.png").write_bytes(b"not an image")
    sound = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "b" / "short.png").write_bytes(sound[: len(sound) // 2])
    picture(9, (16, 12)).save(tmp_path / "b" / "large.webp", lossless=True)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_skips_and_counts(folder: Path) -> None:
    clean, counts = read_images(folder, RGB)
    assert (counts.used, counts.skipped_corrupt, counts.skipped_size) == (4, 2, 1)
    assert clean.sample.shape == (4, 3, 8, 8) and clean.sample.dtype == torch.float32


def test_values_are_the_pixels_in_minus_one_to_one(tmp_path: Path) -> None:
    image = picture(3)
    image.save(tmp_path / "x.png")
    clean, _ = read_images(tmp_path, RGB)
    expected = np.asarray(image, dtype=np.float64).transpose(2, 0, 1) / 255 * 2 - 1
    np.testing.assert_allclose(clean.sample[0].numpy(), expected, atol=1e-6)


def test_resize_crops_the_centre(tmp_path: Path) -> None:
    left, right = np.zeros((8, 4), np.uint8), np.full((8, 4), 255, np.uint8)
    wide = np.concatenate([left, np.full((8, 8), 100, np.uint8), right], axis=1)  # 16 x 8
    Image.fromarray(wide).save(tmp_path / "wide.png")
    clean, counts = read_images(tmp_path, GREY, fit="resize")
    assert counts.used == 1
    torch.testing.assert_close(clean.sample[0], torch.full(GREY, 100 / 127.5 - 1))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("shape", [GREY, RGB])
def test_every_mode_is_converted(tmp_path: Path, mode: str, shape) -> None:
    if mode == "I;16":
        grey = np.asarray(picture(1, mode="L"), dtype=np.uint16) * 257
        Image.fromarray(grey).save(tmp_path / "x.png")
    else:
        suffix = "jpg" if mode == "CMYK" else "png"
        picture(1, mode="RGB").convert(mode).save(tmp_path / f"x.{suffix}")
    clean, counts = read_images(tmp_path, shape)
    assert counts.used == 1 and clean.sample.shape == (1, *shape)
    assert clean.sample.std() > 0.1  # 16 bits are scaled, not clipped to white
    if mode == "I;16":
        expected = np.asarray(picture(1, mode="L")) / 127.5 - 1
        np.testing.assert_allclose(clean.sample[0, 0].numpy(), expected, atol=1e-6)


def test_a_limit_draws_a_subset_by_its_seed(folder: Path) -> None:
    one, counts = read_images(folder, RGB, limit=2, seed=1)
    again, _ = read_images(folder, RGB, limit=2, seed=1)
    others = [read_images(folder, RGB, limit=2, seed=s)[0].sample for s in range(2, 8)]
    assert counts.used == 2 and torch.equal(one.sample, again.sample)
    assert any(not torch.equal(one.sample, other) for other in others)


def test_labels_come_from_folder_names(folder: Path) -> None:
    clean, _ = read_images(folder, RGB, classes=2)
    for image, label in zip(clean.sample, clean.conditions["class_labels"], strict=True):
        matches = [
            i
            for i in range(4)
            if np.allclose(
                image.numpy(), np.asarray(picture(i)).transpose(2, 0, 1) / 127.5 - 1, atol=1e-6
            )
        ]
        assert matches[0] % 2 == int(label)


def test_more_class_folders_than_classes(folder: Path) -> None:
    with pytest.raises(InputError, match="2 class folders; the model knows 1"):
        read_images(folder, RGB, classes=1)


def test_images_outside_of_class_folders(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="outside of class folders"):
        read_images(tmp_path, RGB, classes=2)


def test_fails_when_none_is_left(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no")
    picture(0, (9, 9)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match=r"8x8 RGB.*0 images used, 1 unreadable, 1 of another"):
        read_images(tmp_path, RGB)


@pytest.mark.parametrize("make", ["nothing", "empty", "file"])
def test_nothing_to_read(tmp_path: Path, make: str) -> None:
    source = tmp_path / "data"
    if make == "empty":
        source.mkdir()
    elif make == "file":
        source.write_text("x")
    with pytest.raises(InputError):
        read_images(source, RGB)


def test_latent_channels_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="4 channels"):
        read_images(folder, (4, 8, 8))


@pytest.mark.parametrize("key", ["arr_0", "images", "x"])
def test_npz_uint8_and_float_agree(tmp_path: Path, key: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    floats = (pixels.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    np.savez(tmp_path / "u.npz", **{key: pixels})
    np.savez(tmp_path / "f.npz", **{key: floats})
    from_pixels, _ = read_images(tmp_path / "u.npz", RGB)
    from_floats, _ = read_images(tmp_path / "f.npz", RGB)
    torch.testing.assert_close(from_pixels.sample, from_floats.sample)
    assert len(from_pixels) == 5


def test_npz_greyscale_with_labels_and_broken_rows(tmp_path: Path) -> None:
    images = np.zeros((4, 1, 8, 8), np.float32)
    images[1, 0, 0, 0] = np.nan
    images[2] = 7.0
    images[3] = 0.5
    images[0, 0, 0, 0] = -0.25
    np.savez(tmp_path / "x.npz", x=images, y=np.array([0, 1, 2, 3]))
    clean, counts = read_images(tmp_path / "x.npz", GREY, classes=4)
    assert (counts.used, counts.skipped_corrupt) == (2, 2)
    by_label = dict(zip(clean.conditions["class_labels"].tolist(), clean.sample, strict=True))
    assert by_label[3].mean() == 0.5 and by_label[0].sum() == -0.25


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [GREY, RGB])
def test_npz_of_either_layout(tmp_path: Path, kind, shape) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    pixels[0].reshape(-1)[0] = 0
    values = pixels if kind == np.uint8 else pixels.astype(np.float32) / 127.5 - 1
    for name, array in (("first", values), ("last", values.transpose(0, 2, 3, 1))):
        np.savez(tmp_path / f"{name}.npz", x=array)
        clean, counts = read_images(tmp_path / f"{name}.npz", shape)
        assert counts.used == 4 and not counts.notes
        both = sorted(clean.sample[i].sum().item() for i in range(4))
        assert both == pytest.approx(sorted((p / 127.5 - 1).sum() for p in pixels), abs=1e-2)


def test_floats_without_a_negative_are_scaled_and_it_is_said(tmp_path: Path) -> None:
    floats = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    floats[2] = np.nan  # what is refused has no say
    np.savez(tmp_path / "x.npz", x=floats)
    clean, counts = read_images(tmp_path / "x.npz", RGB)
    assert clean.sample.min() < -0.9 and counts.used == 2
    assert counts.notes == ("x.npz has no float below 0: taken as [0, 1] and scaled to [-1, 1]",)
    np.savez(tmp_path / "y.npz", x=np.full((3, 3, 8, 8), 200.0))
    with pytest.raises(InputError, match="floats from 200 to 200"):
        read_images(tmp_path / "y.npz", RGB)


def test_class_folders_of_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for i, name in enumerate(("2", "10", "1")):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), 50 * i).save(tmp_path / name / "x.png")
    clean, counts = read_images(tmp_path, GREY, classes=4)
    labels = dict(zip(clean.sample[:, 0, 0, 0].tolist(), clean.conditions["class_labels"].tolist(),
                      strict=True))  # fmt: skip
    assert [labels[key] for key in sorted(labels)] == [1, 2, 0]
    assert counts.notes == ("3 class folders, and the model knows 4 classes: '1' was taken as "
                            "class 0, '10' as class 2, and class 3 as \"no class\"",)  # fmt: skip


def test_npz_with_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        read_images(tmp_path / "x.npz", RGB)


def test_npz_of_wrong_shape_or_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8)))
    with pytest.raises(InputError, match=r"x \(3, 8\)"):
        read_images(tmp_path / "x.npz", RGB)
    np.savez(tmp_path / "y.npz", x=np.zeros((3, 8, 8, 3), np.uint8), y=np.array([0, 1, 9]))
    with pytest.raises(InputError, match=r"0\.\.4"):
        read_images(tmp_path / "y.npz", RGB, classes=5)
