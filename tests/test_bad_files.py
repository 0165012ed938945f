"""Files that are damaged, claim too much, are no files, vanish or block: told, and nothing else suffers."""

import io
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gpuload
from tests.conftest import Place

PLAIN = gpuload.Augment(size=(32, 32), dtype="uint8", layout="HWC")
COUNT = 12


@pytest.fixture
def files(photos: Path, tmp_path: Path) -> list[Path]:
    """Twelve photographs, which a test may break."""
    found = sorted(photos.rglob("[0-9].jpg"))
    return [Path(shutil.copy(found[n % len(found)], tmp_path / f"{n:02d}.jpg")) for n in range(COUNT)]


def loader(files: list[Path], place: Place, **options) -> gpuload.Loader:
    source = gpuload.ImageList(files, labels=np.arange(len(files)))
    given = {"batch_size": 4, "framework": "numpy", **place._asdict(), **options}
    return gpuload.Loader(source, PLAIN, **given)


def claiming(data: bytes, height: int, width: int) -> bytes:
    """A JPEG whose header claims that size."""
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = data.find(marker)
        if at >= 0:
            return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
    raise AssertionError("no frame header")


def png(height: int, width: int) -> bytes:
    """A PNG whose header, with a right checksum, claims that size."""
    import zlib

    encoded = io.BytesIO()
    Image.new("RGB", (4, 4)).save(encoded, "PNG")
    data = encoded.getvalue()
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def break_it(path: Path, kind: str) -> None:
    """Put something else in a file's place."""
    data = path.read_bytes()
    if kind == "garbage":
        path.write_bytes(b"no image at all" * 9)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "header alone":
        path.write_bytes(data[:20])
    elif kind == "huge jpeg":
        path.write_bytes(claiming(data, 60000, 60000))
    elif kind == "huge png":
        path.write_bytes(png(60000, 60000))
    elif kind == "gif cut short":
        encoded = io.BytesIO()
        Image.new("P", (40, 40)).save(encoded, "GIF")
        path.write_bytes(encoded.getvalue()[:20])
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "broken link":
            path.symlink_to("nowhere")
        elif kind == "link to itself":
            path.symlink_to(path)
        elif kind == "unreadable":
            path.symlink_to("/proc/self/mem")


KINDS = {
    "garbage": "cannot identify image file",
    "empty": "the file is empty",
    "truncated": "truncated|Truncated",
    "header alone": "",
    "huge jpeg": "its header claims 60000 x 60000 pixels, more than max_pixels=178956970",
    "huge png": "its header claims 60000 x 60000 pixels, more than max_pixels=178956970",
    "gif cut short": "",
    "missing": "No such file or directory",
    "folder": "Is a directory",
    "broken link": "No such file or directory",
    "link to itself": "Too many levels of symbolic links",
    "unreadable": "",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_is_told_and_harms_no_other(files: list[Path], place: Place, kind: str) -> None:
    with loader(files, place) as whole:
        expected = np.concatenate([images for images, _ in whole])
    break_it(files[5], kind)
    batches = loader(files, place)
    with batches:
        iterator = iter(batches)
        found = [next(iterator)]
        with pytest.raises(gpuload.SampleError) as caught:
            next(iterator)
        found.append(next(iterator))
    (bad,) = caught.value.samples
    assert (bad.index, bad.path) == (5, str(files[5]))
    import re

    assert re.search(KINDS[kind], bad.reason), bad.reason
    np.testing.assert_array_equal(found[0][0], expected[:4])
    np.testing.assert_array_equal(found[1][0], expected[8:])
    with loader(files, place, on_error="skip") as batches:
        images = np.concatenate([images for images, _ in batches])
    np.testing.assert_array_equal(images, np.delete(expected, 5, axis=0))


@pytest.mark.parametrize(("limit", "bad"), [(24 * 40, False), (24 * 40 - 1, True)])
def test_the_limit_is_exact(tmp_path: Path, place: Place, limit: int, bad: bool) -> None:
    for number in range(3):
        Image.new("RGB", (40, 24) if number == 1 else (20, 20)).save(tmp_path / f"{number}.jpg")
    files = sorted(tmp_path.glob("*.jpg"))
    with loader(files, place, on_error="skip", max_pixels=limit) as batches:
        ((_, labels),) = list(batches)
    assert labels.tolist() == ([0, 2] if bad else [0, 1, 2])
    if bad:
        assert batches.errors[0].reason.endswith(f"its header claims 24 x 40 pixels, more than max_pixels={limit}")


PEAK = """
    import resource, sys
    import numpy as np, gpuload
    source = gpuload.ImageList(sys.argv[3:], labels=np.arange(len(sys.argv) - 3))
    transform = gpuload.Augment(size=(32, 32))
    options = {"batch_size": 4, "engine": sys.argv[1], "device": sys.argv[2], "framework": "numpy"}
    whole = gpuload.Loader(source.take(np.arange(4)), transform, **options)
    list(whole)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with gpuload.Loader(source, transform, on_error="skip", **options) as loader:
        print(sum(len(labels) for _, labels in loader), len(loader.errors))
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_what_is_claimed_takes_no_memory(files: list[Path], place: Place) -> None:
    """Each of the eight headers claims 10 gigabytes."""
    for number, path in enumerate(files[4:]):
        path.write_bytes(claiming(path.read_bytes(), 60000, 60000) if number % 2 else png(60000, 60000))
    command = [sys.executable, "-c", textwrap.dedent(PEAK), *place, *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    counts, megabytes = result.stdout.splitlines()
    assert counts == "4 8"
    assert int(megabytes) < 500


BLOCKS = """
    import sys, threading
    import numpy as np, gpuload
    files = sys.argv[3:]
    source = gpuload.ImageList(files, labels=np.arange(len(files)))
    options = {"batch_size": 4, "engine": sys.argv[1], "device": sys.argv[2], "framework": "numpy"}
    transform = gpuload.Augment(size=(32, 32), hflip=0.5)
    loader = gpuload.Loader(source, transform, on_error="skip", timeout=1.0, seed=0, **options)
    for _ in range(2):
        print([labels.tolist() for _, labels in loader])
    print([(bad.index, bad.reason) for bad in loader.errors])
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_files_that_block_hold_nobody_up(files: list[Path], place: Place) -> None:
    """Nobody writes to these FIFOs. The program goes on, and ends by itself although threads hang."""
    for number in (2, 5, 7):
        files[number].unlink()
        os.mkfifo(files[number])
    command = [sys.executable, "-c", textwrap.dedent(BLOCKS), *place, *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    first, second, errors = result.stdout.splitlines()
    assert first == second == "[[0, 1, 3], [4, 6], [8, 9, 10, 11]]"
    assert [index for index, _ in eval(errors)] == [2, 5, 7]
    assert all("FIFO" in reason for _, reason in eval(errors))


def test_what_is_slow_is_not_bad(files: list[Path], dali: Place) -> None:
    """DALI takes longer for the large image than the timeout allows; its file does not block, so it is waited for."""
    Image.new("RGB", (10000, 10000)).save(files[1])
    with loader(files, dali, on_error="skip", timeout=0.2) as batches:
        found = [labels.tolist() for _, labels in batches]
    assert found == [list(range(first, first + 4)) for first in (0, 4, 8)]
    assert batches.errors == []


def test_large_images_bring_no_warning(tmp_path: Path) -> None:
    """Pillow warns of those between its limit and twice that; warnings are errors here."""
    path = tmp_path / "large.png"
    Image.new("1", (10000, 9000)).save(path)
    with loader([path], Place("numpy", "cpu")) as batches:
        assert [images.shape for images, _ in batches] == [(1, 32, 32, 3)]


def test_a_file_that_is_replaced_while_it_is_used(files: list[Path], place: Place) -> None:
    """Cut short and written anew, again and again, under a loader that reads it: no crash."""
    data, ends = files[3].read_bytes(), threading.Event()
    reported: set[int] = set()

    def disturb() -> None:
        while not ends.is_set():
            for size in (0, 100, len(data) // 2, len(data)):
                files[3].write_bytes(data[:size])

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        with loader(files, place, on_error="raise", batch_size=2) as batches:
            for _ in range(20):
                iterator = iter(batches)
                for _ in range(len(batches)):
                    try:
                        next(iterator)
                    except gpuload.SampleError as error:
                        reported |= {bad.index for bad in error.samples}
                    except RuntimeError:
                        pass  # Bad when DALI read it, and good again when it was examined.
    finally:
        ends.set()
        disturber.join()
    assert reported <= {3}
