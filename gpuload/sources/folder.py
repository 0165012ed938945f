"""A folder of images with one sub-folder per class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpuload.sources.base import few, shown
from gpuload.sources.files import LONGEST, FileSource, Names, Path

_SEP = os.fsencode(os.sep)
SUFFIXES = ("png", "jpg", "jpeg", "bmp", "ppm", "tif", "tiff")
"""Endings of image files. They have no dot, as in Keras, so that a file called `photojpg` is an image too."""
_SUFFIXES = tuple(os.fsencode(suffix) for suffix in SUFFIXES)


class ImageFolder(FileSource):
    """A folder of images with one sub-folder per class, listed as Keras' `flow_from_directory` lists it.

    Within a class, folders are sorted by whole path and files by name. Images are files, or links to files, whose
    names end in png, jpg, jpeg, bmp, ppm, tif or tiff, in upper or lower case. Labels are int32 [N].

    Args:
        root: Folder that holds the class folders.
        classes: Names of the class folders to use, in the order of their indices. By default all of them, sorted.
        follow_links: Whether links to folders inside a class are listed too. A class folder may always be a link.
        allow_empty: Whether class folders may hold no image.

    Raises:
        FileNotFoundError: `root`, or the folder of a class, does not exist.
        NotADirectoryError: `root` is not a folder.
        ValueError: `classes` is one string or repeats a name; there are no class folders; one of them (with
            `allow_empty`, each of them) has no images; or a link that is followed leads to a folder it lies in.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in "cat/1.jpg", "cat/old/0.PNG", "dog/1.jpg", "dog/notes.txt":
    ...         pathlib.Path(root, name).parent.mkdir(parents=True, exist_ok=True)
    ...         pathlib.Path(root, name).touch()
    ...     source = ImageFolder(root)
    >>> source.filenames
    ['cat/1.jpg', 'cat/old/0.PNG', 'dog/1.jpg']
    >>> source.labels, source.class_indices
    (array([0, 0, 1], dtype=int32), {'cat': 0, 'dog': 1})
    """

    labels: npt.NDArray[np.int32]
    classes: list[str]
    class_indices: dict[str, int]

    def __init__(
        self, root: Path, classes: Sequence[str] | None = None, follow_links: bool = False, *, allow_empty: bool = False
    ):
        root = os.fsdecode(root)
        self.classes = _class_folders(root, classes)
        self.class_indices = {name: index for index, name in enumerate(self.classes)}
        prefix = os.path.join(os.fsencode(root), b"")

        texts, counts = [], []
        for name in self.classes:
            folders = _walk(prefix + os.fsencode(name), follow_links)
            texts.append(b"".join(_images(folder[len(prefix) :] + _SEP, files) for folder, files in folders))
            counts.append(texts[-1].count(b"\0"))
        empty = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        if empty and not (allow_empty and any(counts)):
            hint = "allow_empty=True" if any(counts) else "follow_links=True to enter folders that are links"
            raise ValueError(
                f"every class folder in root must hold images: {root!r} has none in {few(empty)}; add files "
                f"that end in jpg, png, bmp, ppm or tif, or pass the folders to use in classes, or {hint}"
            )
        names = Names(np.frombuffer(b"".join(texts), np.uint8), sum(counts))
        super().__init__(names, root, np.repeat(np.arange(len(counts), dtype=np.int32), counts))


def _scan(folder: bytes) -> tuple[list[os.DirEntry[bytes]], list[bytes]]:
    """Return the folders in a folder, and the names of everything else in it."""
    folders, names = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:  # A link to itself. os.walk, and so Keras, takes it for a file.
                is_folder = False
            if is_folder:
                folders.append(entry)
            else:
                names.append(entry.name)
    return folders, names


def _walk(top: bytes, follow_links: bool) -> list[tuple[bytes, list[bytes]]]:
    """Return `top` and all folders under it, sorted by whole path as text, each with the names of its files."""
    found, waiting = [], [top]
    while waiting:
        folder = waiting.pop()
        folders, names = _scan(folder)
        found.append((folder, names))
        for entry in folders:
            if entry.is_symlink() and follow_links:
                _refuse_loop(entry.path, top)
            if follow_links or not entry.is_symlink():
                waiting.append(entry.path)
    return sorted(found, key=lambda item: os.fsdecode(item[0]))


def _refuse_loop(link: bytes, top: bytes) -> None:
    """Raise ValueError if a walk from `top` that follows `link` would come to `link` again."""
    target, folder = os.path.realpath(link), link
    while folder != top:
        folder = os.path.dirname(folder)
        if os.path.join(os.path.realpath(folder), b"").startswith(os.path.join(target, b"")):
            raise ValueError(
                f"follow_links=True needs links without loops: {os.fsdecode(link)!r} leads back to "
                f"{os.fsdecode(target)!r}; remove the link or pass follow_links=False"
            )


def _images(prefix: bytes, names: list[bytes]) -> bytes:
    """Return the images among `names`, sorted as text, each between `prefix` and a NUL."""
    names.sort()
    # Listing must keep up with the file system. Most folders hold one kind of file, under ASCII names, whose bytes
    # sort as their text does. Two tests of the whole text then replace a test of each name.
    text, suffix = b"\0".join([*names, b""]), names[0].rpartition(b".")[2] if names else b""
    if suffix.lower() not in _SUFFIXES or text.count(suffix + b"\0") < len(names) or not text.isascii():
        names = sorted((name for name in names if name.lower().endswith(_SUFFIXES)), key=os.fsdecode)
    return prefix + (b"\0" + prefix).join(names) + b"\0" if names else b""


def _class_folders(root: str, classes: Sequence[str] | None) -> list[str]:
    """Return the names of the class folders to list, after checking `root` and `classes`."""
    if isinstance(classes, (str, bytes)):
        raise ValueError(
            f"classes must be a sequence of names, not one: got {shown(classes)}; write [{shown(classes)}]"
        )
    if "\0" in root or len(root) >= LONGEST:  # It would fill the screen.
        raise ValueError(
            f"root must be the path of a folder: got {shown(root)}; gpuload.ImageBytes takes encoded images"
        )
    if not os.path.exists(root):
        where = os.getcwd()
        raise FileNotFoundError(f"root must be a folder: {root!r} does not exist; check the path, seen from {where!r}")
    if not os.path.isdir(root):
        raise NotADirectoryError(f"root must be a folder: {root!r} is a file; pass its folder, or use ImageList")
    entries, files = _scan(os.fsencode(root))
    folders = sorted(os.fsdecode(entry.name) for entry in entries)
    if not folders:
        images = _images(b"", files).count(b"\0")
        raise ValueError(
            f"root must hold one folder per class: {root!r} has no folders, but {images} images directly "
            "in it; move those of each class into a folder, or pass their paths to ImageList"
        )
    # An empty list means all folders, as in Keras.
    wanted = folders if classes is None else [str(name) for name in classes] or folders
    if missing := sorted(set(wanted) - set(folders)):
        there = f"{root!r} has no {few(missing)}; it has {few(folders)}"
        raise FileNotFoundError(f"classes must name folders in root: {there}")
    if repeated := [name for name, count in Counter(wanted).items() if count > 1]:
        raise ValueError(f"classes must not repeat a name: {few(repeated)} comes twice; name each once")
    return wanted
