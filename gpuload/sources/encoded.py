"""Encoded images in memory."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuload.sources.base import Array, Encoded, Self, as_indices, as_labels, layout, positions

SIGNATURES = b"\xff\xd8\xff", b"\x89PNG", b"GIF87a", b"GIF89a"
"""First bytes of encoded images that no path begins with. "BM", of a bitmap, may begin one."""
PATHS = "gpuload.ImageList and gpuload.ImageFolder take paths"


class ImageBytes:
    """Encoded images in memory: contents of image files, records of a database, a column of a table.

    Args:
        data: One entry for each image, in any sequence: a list, a tuple, a NumPy array of objects, a column of pandas
            or pyarrow. An entry is bytes, a bytearray, a memoryview of bytes or a uint8 array [n]. Entries are not
            copied, unless their bytes do not lie one after another; in pyarrow, if they are "binary" or "large_binary"
            and none is missing in their chunk.
        labels: One entry for each image, along the first axis: anything that `np.asarray` takes, of any shape and
            dtype. None: there are no labels.
        names: One text or path for each image, for messages. None: "image 0", "image 1", and so on.

    Attributes:
        data: The encoded images, a list.
        labels: The labels, or None.
        names: The names, a list of text, or None.

    Raises:
        ValueError: `data` is a single image, is empty, or has an entry of another type; or `labels` or `names` has
            another length. An image that is broken shows when its batch is read, not before.

    >>> import io
    >>> from PIL import Image
    >>> Image.new("RGB", (8, 8)).save(file := io.BytesIO(), "png")
    >>> source = ImageBytes([file.getvalue()] * 3, labels=[0, 1, 1])
    >>> source, source.name(2)
    (ImageBytes(3 images, labels: int64 [3]), 'image 2')
    """

    data: list[Encoded]
    labels: Array | None
    names: list[str] | None

    def __init__(
        self,
        data: Iterable[Any],
        labels: npt.ArrayLike | None = None,
        names: Iterable[str | os.PathLike[str]] | None = None,
    ):
        found = entries(data)
        if found is None:
            raise ValueError(f"data must be a list of encoded images, not {kind(data)}: {_advice(data)}")
        self.data = []
        for position, entry in enumerate(found):
            image = as_encoded(entry)
            if image is None:
                rule = "data must hold encoded images (bytes, bytearray, memoryview of bytes, or a uint8 array [n])"
                raise ValueError(f"{rule}: entry {position} is {kind(entry)}; {_advice_for_entry(entry)}")
            self.data.append(image)
        if not self.data:
            raise ValueError("data must hold at least one image: it is empty; check what it was made from")
        self.labels = as_labels(labels, len(self.data), "data")
        self.names = None if names is None else _as_texts(names, len(self.data))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.data)

    def read(self, indices: npt.ArrayLike | slice) -> list[Encoded | Exception]:
        """Return some images, not copied; an Exception for one without bytes. `indices` are those of `take`."""
        return [or_error(self.data[index]) for index in positions(indices, len(self))]

    def name(self, index: int) -> str:
        """Return the name of image `index` for messages."""
        (index,) = positions([index], len(self))
        return f"image {index}" if self.names is None else self.names[index]

    def stamp(self, index: int) -> tuple[int, int]:
        """Return (number of bytes, their CRC-32) of image `index`."""
        data = self.data[positions([index], len(self))[0]]
        return len(data), zlib.crc32(data)

    def take(self, indices: npt.ArrayLike | slice) -> Self:
        """Return a source with these images, their labels and names, in this order. The images are not copied.

        Args:
            indices: Integers [K], of which negative ones count from the end; booleans [N]; or a slice. IndexError is
                raised for others, and out of bounds.
        """
        numbers = positions(indices, len(self))
        taken = object.__new__(type(self))  # copy.copy would copy the images, as pickle does.
        vars(taken).update(vars(self))
        taken.data = [self.data[number] for number in numbers]
        taken.labels = None if self.labels is None else self.labels[as_indices(numbers)]
        taken.names = None if self.names is None else [self.names[number] for number in numbers]
        return taken

    def __getstate__(self) -> dict[str, Any]:
        # A memoryview cannot be pickled.
        data = [bytes(entry) if isinstance(entry, memoryview) else entry for entry in self.data]
        return vars(self) | {"data": data}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, labels: {layout(self.labels)})"


def entries(value: Any) -> Iterator[Any] | None:
    """Return the entries of what may be a sequence of encoded images; None for text, bytes, and what has no entries."""
    single = isinstance(value, str | bytes | bytearray | memoryview | os.PathLike)
    # NumPy's own type for bytes cuts zeros off their ends.
    if single or (isinstance(value, np.ndarray) and value.ndim < 2 and value.dtype.kind != "O"):
        return None
    if type(value).__module__.partition(".")[0] == "pyarrow" and hasattr(value, "null_count"):
        return _of_arrow(value)
    try:
        found: Iterator[Any] = iter(value)
    except TypeError:
        return None
    return found


def _of_arrow(column: Any) -> Iterator[Any]:
    """Yield the entries of a column of pyarrow over its own memory, as far as its type allows; scalars are copies."""
    for chunk in getattr(column, "chunks", [column]):
        dtype = {"binary": np.int32, "large_binary": np.int64}.get(str(chunk.type))
        if dtype is None or chunk.null_count or not len(chunk):
            yield from chunk
            continue
        _, offsets, data = chunk.buffers()
        bounds = np.frombuffer(offsets, dtype, len(chunk) + 1, chunk.offset * np.dtype(dtype).itemsize).tolist()
        whole = np.frombuffer(b"" if data is None else data, np.uint8).data
        for start, stop in itertools.pairwise(bounds):
            yield whole[start:stop]


def as_encoded(entry: Any) -> Encoded | None:
    """Return an encoded image over the same memory, its bytes one after another; None for a value of another type."""
    if isinstance(entry, bytes | bytearray):
        return entry
    if isinstance(entry, np.ndarray):
        entry = entry.data if entry.dtype == np.uint8 else None
    elif hasattr(entry, "as_buffer") and "binary" in str(entry.type):  # A scalar of pyarrow, which may be missing.
        entry = entry.as_buffer()
        entry = None if entry is None else memoryview(entry)
    if not isinstance(entry, memoryview) or entry.ndim != 1 or entry.format not in ("B", "b", "c"):
        return None
    if not entry.nbytes or not entry.c_contiguous:
        return entry.tobytes()
    return entry if entry.format == "B" else entry.cast("B")


def or_error(image: Encoded) -> Encoded | Exception:
    """Return the image, or an error if it has no bytes."""
    return image if len(image) else OSError("the image has no bytes")


def looks_encoded(value: object) -> bool:
    """Whether a value that stands for a path is an encoded image."""
    if isinstance(value, bytes):
        return b"\0" in value or value.startswith(SIGNATURES) or (value[:4] == b"RIFF" and value[8:12] == b"WEBP")
    return not isinstance(value, str) and as_encoded(value) is not None


def kind(value: Any) -> str:
    """Return the type of a value in words for a message, never its content."""
    if isinstance(value, np.ndarray):
        return f"an array {layout(value)}"
    name = type(value).__name__[:40]
    missing = value is None or getattr(value, "is_valid", True) is False  # The latter in pyarrow.
    return "None" if missing else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _advice(data: Any) -> str:
    """Return what to pass in place of a value that is no sequence of encoded images."""
    if as_encoded(data) is not None:
        return "write [data]"
    letter = data.dtype.kind if isinstance(data, np.ndarray) else ""
    if isinstance(data, str | os.PathLike) or letter == "U":
        return PATHS
    return "keep them in a list, since NumPy cuts zeros off the ends of bytes" if letter == "S" else "pass a list"


def _advice_for_entry(entry: Any) -> str:
    if isinstance(entry, str | os.PathLike):
        return PATHS
    decoded = isinstance(entry, np.ndarray) and entry.ndim > 1
    return "gpuload.ImageArray takes decoded images" if decoded else "convert it or leave it out"


def _as_texts(names: Iterable[Any], count: int) -> list[str]:
    """Return the names of `count` images as text."""
    if isinstance(names, str | bytes | os.PathLike):
        raise ValueError(f"names must be a sequence with one name for each of data, not {kind(names)}: write [names]")
    found = list(names)
    for position, name in enumerate(found):
        if not isinstance(name, str | os.PathLike):
            rule = "names must hold text or paths"
            raise ValueError(f"{rule}: entry {position} is {kind(name)}; convert them with list(map(str, names))")
    if len(found) != count:
        raise ValueError(f"names must have one entry for each of data: names has {len(found)}, data has {count}")
    return [os.fsdecode(name) for name in found]
