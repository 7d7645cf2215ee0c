"""Finds the images and the class folders of a data folder; without torch.

Classes are the folders directly under the data folder, in the order of the model's labels: by
number if all names are numbers ('2' before '10'), else by name. Links are followed, and a folder
without images counts. Files of a system or an editor (names that begin with a dot, ``__MACOSX``,
``@eaDir``, ...) are neither classes nor images.

    image_files     the images below a folder, sorted
    class_folders   the classes, in the order of their labels
    class_of        the class of one image
    check_images    refuse a path without images, from names and headers alone
    images_digest   sha256 of everything that decides what is read
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffc.errors import InputError, UnavailableError
from diffc_runtime.files import file_digest

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
IMAGE_KEYS = ("arr_0", "images", "x")
LABEL_KEYS = ("arr_1", "labels", "y")
_LEFTOVERS = frozenset(
    {
        "__macosx",
        "@eadir",
        "#recycle",
        "@recycle",
        "$recycle.bin",
        "lost+found",
        "system volume information",
        "__pycache__",
        "thumbs.db",
        "desktop.ini",
    }
)
SOURCES = "an image folder, an .npz of images, or the folder of a data set"


def image_files(folder: Path) -> list[Path]:
    """Return every image below ``folder``, sorted by path; links are followed, circles are not."""
    return sorted(file for file in files_below(folder) if file.suffix.lower() in SUFFIXES)


def files_below(folder: Path) -> Iterator[Path]:
    """Return every file below ``folder`` but leftovers; links are followed, a circle once."""
    yield from _walk(folder, (os.path.realpath(folder),))


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not is_leftover(entry.name))
    for name in names:
        path = folder / name
        if path.is_dir():
            real = os.path.realpath(path)
            if real not in above:
                yield from _walk(path, (*above, real))
        elif path.is_file():
            yield path


def is_leftover(name: str) -> bool:
    """True if a system or an editor made the file; it does not belong to the data."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def is_dataset(path: Path) -> bool:
    """True if ``path`` is a folder that ``datasets``' ``save_to_disk`` wrote."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def class_folders(folder: Path, classes: int) -> tuple[list[str], tuple[str, ...]]:
    """Return the names of the class folders in the order of their labels, and notes about them.

    Args:
        folder: The data folder.
        classes: The number of classes that the model knows.

    Raises:
        InputError: There are images outside of class folders or deeper than them, or the number of
            folders is not ``classes``, nor one less (the last class then means "no class").
    """
    names = _sort_classes(
        [path.name for path in folder.iterdir() if not is_leftover(path.name) and path.is_dir()]
    )
    for file in image_files(folder):
        _check_depth(folder, file)
    return names, check_class_count(names, classes, f"{folder} has", "class folders")


def _check_depth(folder: Path, file: Path) -> None:
    parts = file.relative_to(folder).parts
    if len(parts) == 1:
        raise InputError(
            f"{folder} holds images outside of class folders, and the model is class-conditional",
            hint="one sub-folder for each class, in the order of the model's labels",
        )
    if len(parts) > 2:
        raise InputError(
            f"{file.parent} holds images deeper than a class folder; the classes are the folders "
            f"directly under {folder}",
            hint=f"give the folder of the classes, such as {folder / parts[0]}, or move the images "
            "up",
        )


def _sort_classes(names: list[str]) -> list[str]:
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def check_class_count(names: Sequence[str], classes: int, has: str, what: str) -> tuple[str, ...]:
    """Return a note if ``names`` are one less than the model's classes; () if they are as many.

    Args:
        names: The data's classes, in the order of their labels.
        classes: The number of classes that the model knows.
        has: The subject and verb of the message: "FOLDER has".
        what: The kind of the names: "class folders".

    Raises:
        InputError: There are fewer names, or more.
    """
    n = len(names)
    if n == classes:
        return ()
    if n != classes - 1 or n == 0:
        raise InputError(
            f"{has} {n} {what}; the model knows {classes} classes",
            hint="one for each class of the model, in the order of its labels; an empty folder "
            "counts",
        )
    return (
        f"{n} {what}, and the model knows {classes} classes: '{names[0]}' was taken as class 0, "
        f"'{names[-1]}' as class {n - 1}, and class {n} as \"no class\"",
    )


def class_of(folder: Path, file: Path) -> str:
    """Return the name of the class folder that holds ``file``."""
    return file.relative_to(folder).parts[0]


def check_images(path: Path, flag: str, classes: int | None = None) -> None:
    """Refuse a path that is no source of images, from names and headers alone."""
    check_readable(path, flag, SOURCES)
    if path.suffix == ".npz":
        _check_npz(path, flag, need_labels=bool(classes))
    elif not path.is_dir():
        hint = f"{flag} takes {SOURCES}"
        raise InputError(f"{flag}: {path} is neither a folder nor an .npz file", hint=hint)
    elif is_dataset(path):
        _check_datasets_package(path)
    elif next((f for f in files_below(path) if f.suffix.lower() in SUFFIXES), None) is None:
        raise InputError(
            f"{flag}: no images in {path}", hint=f"looked for {', '.join(sorted(SUFFIXES))} files"
        )
    elif classes:
        class_folders(path, classes)


def check_readable(path: Path, flag: str, takes: str) -> None:
    """Refuse a path at which there is nothing, or that this user may not read."""
    if not path.exists():
        raise InputError(f"{flag}: there is nothing at '{path}'", hint=f"{flag} takes {takes}")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InputError(f"{flag}: '{path}' cannot be read: Permission denied")


def check_file(path: Path, flag: str, takes: str) -> None:
    """Refuse a path that is no file, or that this user may not read."""
    check_readable(path, flag, takes)
    if path.is_dir():
        raise InputError(f"{flag}: '{path}' is a folder", hint=f"{flag} takes {takes}")


def _check_npz(path: Path, flag: str, *, need_labels: bool) -> None:
    """Check the names of the arrays in an .npz."""
    try:
        with zipfile.ZipFile(path) as arrays:
            names = [name.removesuffix(".npy") for name in arrays.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{flag}: {path} is not an .npz of arrays: {error}") from error
    if not set(names) & set(IMAGE_KEYS):
        raise InputError(
            f"{flag}: {path} holds {', '.join(names) or 'nothing'}, and no array of images",
            hint=f"name the array one of {', '.join(IMAGE_KEYS)}",
        )
    if need_labels and not set(names) & set(LABEL_KEYS):
        raise InputError(
            f"{path} has no labels (N,), and the model is class-conditional",
            hint=f"name them one of {', '.join(LABEL_KEYS)}",
        )


def _check_datasets_package(path: Path) -> None:
    from importlib.util import find_spec

    if find_spec("datasets") is None:
        raise UnavailableError(
            f"{path} is a Hugging Face data set, and reading it needs the package 'datasets'",
            hint="pip install 'diffc[data]'",
        )


def images_digest(folder: Path) -> str:
    """Return the sha256 of a folder of images: file names, contents and class folders' names."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not is_leftover(path.name):  # an empty one moves the labels as well
            total.update(f"{path.name}/".encode(errors="surrogateescape"))
    for file in image_files(folder):
        name = str(file.relative_to(folder)).encode(errors="surrogateescape")
        total.update(name + file_digest(file).encode())
    return total.hexdigest()
