"""Files that are damaged, claim too much, are no files, vanish or block: told, and nothing else suffers."""

import io
import itertools
import os
import re
import shutil
import struct
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gpuload
from gpuload.decode import dali as dali_runs
from gpuload.decode.by_dali import ByDali
from gpuload.decode.work import Run
from gpuload.reading.header import opened
from tests.conftest import THREADS, Place

PLAIN = gpuload.Augment(size=(32, 32), dtype="uint8", layout="HWC")
COUNT = 12


@pytest.fixture
def files(photos: Path, tmp_path: Path) -> list[Path]:
    """Twelve photographs, which a test may break."""
    found = sorted(photos.rglob("[0-9].jpg"))
    return [Path(shutil.copy(found[n % len(found)], tmp_path / f"{n:02d}.jpg")) for n in range(COUNT)]


def loader(files: list[Path], place: Place, **options) -> gpuload.Loader:
    source = gpuload.ImageList(files, labels=np.arange(len(files)))
    given = {"batch_size": 4, "threads": THREADS, "framework": "numpy", **place._asdict(), **options}
    return gpuload.Loader(source, PLAIN, **given)


def claiming(data: bytes, height: int, width: int) -> bytes:
    """A JPEG whose header claims that size."""
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = data.find(marker)
        if at >= 0:
            return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
    raise AssertionError("no frame header")


def encoded(name: str, height: int = 40, width: int = 40, **options) -> bytes:
    """A black picture in that format."""
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, name, **options)
    return file.getvalue()


def png(height: int, width: int) -> bytes:
    """A PNG whose header, with a right checksum, claims that size."""
    import zlib

    data = encoded("PNG", 4, 4)
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
    elif kind == "gif":
        path.write_bytes(encoded("GIF"))
    elif kind == "gif cut short":
        path.write_bytes(encoded("GIF")[:20])
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
    with loader(files, place, errors=gpuload.Errors(on_error="skip", max_pixels=limit)) as batches:
        ((_, labels),) = list(batches)
    assert labels.tolist() == ([0, 2] if bad else [0, 1, 2])
    if bad:
        assert batches.errors[0].reason.endswith(f"its header claims 24 x 40 pixels, more than max_pixels={limit}")


LARGE = """
    import sys
    import numpy as np, gpuload
    transform = gpuload.Augment(size=(32, 32))
    options = {"batch_size": 32, "engine": sys.argv[1], "device": sys.argv[2], "framework": "numpy", "threads": 2}
    unlimited = {"max_pixels": None} if sys.argv[3] == "any" else {}
    options["errors"] = gpuload.Errors(on_error="skip", **unlimited)
    good, *bad = sys.argv[4:]
    places = (0, 5, 16, 31) if sys.argv[2] == "cpu" else (0, 31)  # A GPU's pipelines take long to open.
    for path in bad:
        for place in places:
            files = [good] * 32
            files[place] = path
            loader = gpuload.Loader(gpuload.ImageList(files), transform, **options)
            with loader:
                print(sum(len(images) for images in loader), [sample.index for sample in loader.errors] == [place])
"""


@pytest.mark.parametrize(
    ("limit", "kinds"),
    [("default", ["huge jpeg", "truncated"]), ("any", ["garbage", "empty", "header alone", "gif cut short"])],
)
def test_a_bad_file_in_a_large_batch(files: list[Path], dali: Place, limit: str, kinds: list[str]) -> None:
    """DALI reads the headers of a batch in several threads. An error there must not end the process."""
    for number, kind in enumerate(kinds, 1):
        break_it(files[number], kind)
    command = [sys.executable, "-c", textwrap.dedent(LARGE), *dali, limit, *map(str, files[: len(kinds) + 1])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    each = 4 if dali.device == "cpu" else 2
    assert re.findall(r"^\d+ \w+$", result.stdout, re.MULTILINE) == ["31 True"] * each * len(kinds)


def test_other_formats_are_no_bad_files(files: list[Path], place: Place) -> None:
    """Whatever their suffix says: DALI knows none of these."""
    pictures = {4: encoded("GIF"), 5: encoded("PPM"), 6: encoded("AVIF"), 7: encoded("ICO", sizes=[(40, 40)])}
    for number, data in pictures.items():
        files[number].write_bytes(data)
    with loader(files, place) as batches:
        images = [images for images, _ in batches]
    assert batches.errors == []
    assert not images[1].any()
    assert all(images[number].any() for number in (0, 2))


@pytest.fixture
def failing_batches(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of batches, to be filled in, at which DALI fails. No sound file is known at which it does."""
    taken, calls, failing_at = ByDali.taken, itertools.count(), set[int]()

    def failing(self: ByDali, run: Run, stream: int | None) -> Any:
        found = taken(self, run, stream)
        if next(calls) in failing_at:
            raise RuntimeError("Critical error in pipeline")
        return found

    monkeypatch.setattr(ByDali, "taken", failing)
    return failing_at


def test_what_only_dali_refuses_is_decoded_by_pillow(
    files: list[Path], dali: Place, failing_batches: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    failing_batches |= {1, 2}
    with loader(files, dali._replace(engine="numpy", device="cpu")) as batches:
        expected = [images for images, _ in batches]
    with loader(files, dali) as batches:
        for (images, _), wanted in zip(batches, expected, strict=True):
            off = np.abs(images.astype(int) - wanted)
            if dali.device == "cpu":
                assert off.max() <= 1
            else:  # A GPU decodes and resizes the pictures of whole batches on its own.
                assert (off <= 4).mean() >= 0.95
    assert batches.errors == []
    assert caplog.text.count("Pillow decodes them") == 1


def test_a_file_that_is_cut_short_is_bad_on_every_device(files: list[Path], dali: Place) -> None:
    """A GPU would decode it as if nothing were missing."""
    for number in (1, 5):
        data = files[number].read_bytes()
        files[number].write_bytes(data[: len(data) - (2 if number == 1 else len(data) // 4)])
    with loader(files, dali, on_error="replace") as batches:
        for _ in batches:
            pass
    assert [bad.index for bad in batches.errors] == [1, 5]
    assert all("truncated" in bad.reason for bad in batches.errors)


def test_bytes_behind_the_end_harm_nothing(files: list[Path], dali: Place) -> None:
    with loader(files, dali) as batches:
        expected = [images for images, _ in batches]
    files[3].write_bytes(files[3].read_bytes() + b"a camera's own data" * 99)
    with loader(files, dali) as batches:
        for (images, _), wanted in zip(batches, expected, strict=True):
            np.testing.assert_array_equal(images, wanted)


def test_the_fate_of_a_file_does_not_depend_on_its_batch(files: list[Path], dali: Place) -> None:
    """DALI, on the CPU, takes a JPEG with a marker among its pixels, Pillow does not. Both refuse another file."""
    damaged = bytearray(files[4].read_bytes())
    damaged[damaged.index(b"\xff\x00", len(damaged) // 2) + 1] = 0x20
    files[4].write_bytes(damaged)
    with pytest.raises(OSError, match="broken data stream"), Image.open(files[4]) as image:
        image.load()
    with loader(files, dali, on_error="replace") as batches:
        before = [images for images, _ in batches]
        told_before = [bad.index for bad in batches.errors]
    tables = bytearray(files[5].read_bytes())
    at = tables.index(b"\xff\xc4") + 5  # Numbers of codes by length: more than there can be.
    tables[at : at + 16] = b"\xff" * 16
    files[5].write_bytes(tables)
    with loader(files, dali, on_error="replace") as batches:
        after = [images for images, _ in batches]
        told = [bad.index for bad in batches.errors]
    assert told == [*told_before, 5]
    before, after = (np.concatenate(images) for images in (before, after))
    off = np.abs(before.astype(int) - after)[np.arange(len(files)) != 5]
    if dali.device == "cpu":
        assert off.max() == 0
        assert told_before == []
    else:
        assert (off <= 4).mean() >= 0.95


def test_what_is_wrong_with_dali_itself_is_no_files_fault(
    files: list[Path], dali: Place, failing_batches: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the device were in trouble: DALI does not decode a sound picture either."""
    failing_batches.add(1)
    sound = dali_runs._sound
    monkeypatch.setattr(dali_runs, "_sound", lambda count: sound(count) if count < 1000 else encoded("GIF"))
    with loader(files, dali, on_error="skip") as batches:
        iterator = iter(batches)
        next(iterator)
        with pytest.raises(RuntimeError, match="Critical error in pipeline") as caught:
            next(iterator)
        assert not isinstance(caught.value, gpuload.SampleError)
        assert next(iterator)[1].tolist() == [8, 9, 10, 11]
    assert batches.errors == []


def test_large_files_are_not_read(files: list[Path], place: Place) -> None:
    """Of a terabyte that is not there, nothing is read."""
    os.truncate(files[5], 2**40)
    with loader(files, place, on_error="skip") as batches:
        assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 6, 7], [8, 9, 10, 11]]
    assert batches.errors[0].reason == "OSError: it has 1,099,511,627,776 bytes, more than max_bytes=1,073,741,824"
    most = max(path.stat().st_size for number, path in enumerate(files) if number != 5)
    with loader(files, place, errors=gpuload.Errors(on_error="skip", max_bytes=most)) as batches:
        list(batches)
    assert [bad.index for bad in batches.errors] == [5]
    with loader(files, place, errors=gpuload.Errors(on_error="skip", max_bytes=f"{most - 1}B")) as batches:
        list(batches)
    assert len(batches.errors) > 1


def icon(data: bytes, bits: int = 32) -> bytes:
    """A file of icons, ICO, that holds that one."""
    return struct.pack("<HHH4B2H2I", 0, 1, 1, 0, 0, 0, 0, 1, bits, len(data), 22) + data


def apple_icon(data: bytes) -> bytes:
    """A file of icons, ICNS, that holds that one."""
    return b"icns" + struct.pack(">I", 16 + len(data)) + b"ic10" + struct.pack(">I", 8 + len(data)) + data


def dib(height: int, width: int) -> bytes:
    """A bitmap within a file of icons, which has a mask below it."""
    return struct.pack("<3I2H6I", 40, width, 2 * height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(1000)


@pytest.mark.parametrize(
    "data", [icon(png(9000, 9000)), icon(dib(9000, 9000), 24), apple_icon(png(9000, 9000))], ids=["png", "dib", "icns"]
)
def test_what_icons_claim(data: bytes) -> None:
    """Pillow decodes them as it opens their file, or claims another size."""
    with pytest.raises(Image.DecompressionBombError, match="claims 9000 x 9000 pixels, more than max_pixels=80999999"):
        opened(data, 80_999_999)


def test_icons_are_images(files: list[Path]) -> None:
    files[1].write_bytes(encoded("ICO", sizes=[(40, 40)]))
    files[2].write_bytes(encoded("ICO", sizes=[(40, 40)], bitmap_format="bmp"))
    files[3].write_bytes(encoded("ICNS", 1024, 1024))
    with loader(files, Place("numpy", "cpu"), errors=gpuload.Errors(max_pixels=2**20)) as batches:
        images, _ = next(iter(batches))
    assert images.shape == (4, 32, 32, 3)
    assert not images[1:].any()


PEAK = """
    import re, sys
    import numpy as np, gpuload
    def peak():
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
    source = gpuload.ImageList(sys.argv[3:], labels=np.arange(len(sys.argv) - 3))
    transform = gpuload.Augment(size=(32, 32))
    options = {"batch_size": 4, "engine": sys.argv[1], "device": sys.argv[2], "framework": "numpy"}
    whole = gpuload.Loader(source.take(np.arange(4)), transform, **options)
    list(whole)
    before = peak()
    with gpuload.Loader(source, transform, on_error="skip", **options) as loader:
        print(sum(len(labels) for _, labels in loader), len(loader.errors))
    print((peak() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is Linux's to tell")
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
    loader = gpuload.Loader(source, transform, errors=gpuload.Errors(on_error="skip", timeout=1.0), seed=0, **options)
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


HOLDS = """
    import fcntl, os, signal, sys, time
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    for path in sys.argv[1:]:
        fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("held", flush=True)
    time.sleep(600)
"""
LEASED = """
    import os, sys
    import numpy as np, gpuload
    files = sys.argv[3:]
    source = gpuload.ImageList(files, labels=np.arange(len(files)))
    options = {"batch_size": 4, "engine": sys.argv[1], "device": sys.argv[2], "framework": "numpy", "cache": None}
    transform = gpuload.Augment(size=(32, 32))
    def outcomes(loader):
        iterator, found = iter(loader), []
        while True:
            try:
                found.append(len(next(iterator)[1]))
            except StopIteration:
                return found
            except RuntimeError as error:
                found.append(type(error).__name__)
    for on_error in ("raise", "skip", "replace"):
        errors = gpuload.Errors(on_error=on_error, timeout=0.5)
        with gpuload.Loader(source, transform, errors=errors, seed=0, **options) as loader:
            threads = []
            found = set()
            for _ in range(12):
                found.add(str(outcomes(loader)))
                threads.append(len(os.listdir("/proc/self/task")))
            print(*found)
            # Engines come and go, and their threads with them: a few more or less.
            print(threads[11] - threads[1] < 10, sorted((bad.index, bad.reason) for bad in loader.errors))
    from gpuload.reading import reader
    reader.MOST_BLOCKED = 2
    errors = gpuload.Errors(on_error="skip", timeout=0.5)
    with gpuload.Loader(source, transform, errors=errors, seed=0, **options) as loader:
        print(set(outcomes(loader)))
"""


def test_a_file_whose_opening_blocks(files: list[Path], place: Place) -> None:
    """Another process holds leases on two files: to open them blocks until it is asked to give them back, and longer.
    Threads hang there, but no more of them from one epoch to the next."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDS), str(files[2]), str(files[5])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as holder:
        assert holder.stdout is not None
        try:
            if holder.stdout.readline() != "held\n":
                pytest.skip("there are no leases on this system")
            command = [sys.executable, "-c", textwrap.dedent(LEASED), *place, *map(str, files)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        finally:
            holder.kill()
    assert result.returncode == 0, result.stderr
    lines, told = result.stdout.splitlines(), [(number, "TimeoutError: blocked for 0.5 s") for number in (2, 5)]
    for number, batches in enumerate((["SampleError", "SampleError", 4], [3, 3, 4], [4, 4, 4])):
        assert lines[2 * number : 2 * number + 2] == [str(batches), f"True {told}"]
    assert "TooManyErrors" in lines[6]


def test_what_is_slow_is_not_bad(files: list[Path], dali: Place) -> None:
    """DALI takes longer for the large image than the timeout allows; its file does not block, so it is waited for."""
    Image.new("RGB", (10000, 10000)).save(files[1])
    with loader(files, dali, errors=gpuload.Errors(on_error="skip", timeout=0.2)) as batches:
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
    """Cut short and written anew, again and again, under a loader that reads it: no crash, and no error but its own."""
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
    finally:
        ends.set()
        disturber.join()
    assert reported <= {3}
