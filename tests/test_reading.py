"""The reading room: bytes of samples, ahead of time, in order, whatever some of them do."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuload.core.available import numba_installed
from gpuload.reading import files as reading_files
from gpuload.reading import reader
from gpuload.reading.reader import CancelledReading, Reader
from gpuload.sources import ImageList, as_source


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Forty files of 0 to 39,000 bytes."""
    found = [tmp_path / f"{number:02}" for number in range(40)]
    for number, path in enumerate(found):
        path.write_bytes(np.random.default_rng(number).bytes(number * 1000))
    return found


def words(found: Any) -> Any:
    return type(found).__name__ if isinstance(found, Exception) else found.tobytes()


def break_some(paths: list[Path]) -> None:
    """Files that are gone, no files, unreadable or changing."""
    paths[3].unlink()
    paths[4].unlink()
    paths[4].mkdir()
    paths[5].unlink()
    paths[5].symlink_to(paths[5])
    paths[6].unlink()
    os.mkfifo(paths[6])
    paths[7].unlink()
    paths[7].symlink_to("/dev/zero")
    paths[8].unlink()
    paths[8].symlink_to("/proc/self/status")  # Its size is said to be 0.
    os.truncate(paths[9], 2**40)


@pytest.mark.skipif(not numba_installed(), reason="numba is not installed")
def test_compiled_reading_is_python_s(paths: list[Path]) -> None:
    """File by file: the bytes, or the kind of error."""
    break_some(paths)
    names, progress = [os.fsencode(path) for path in paths], np.zeros(2, np.int64)
    for limit in (None, 10_000):
        some = names if limit else names[:9] + names[10:]
        found = reading_files.read_files(some, limit, progress)
        assert progress[1] == -1
        expected = [reading_files.read_file(name, limit) for name in some]
        for one, other, name in zip(found, expected, some, strict=True):
            if not name.endswith(b"08"):  # It tells the state of the process.
                assert words(one) == words(other), name


def test_paths_of_any_bytes_and_length(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"\xff\xfe \n'", b"a" * 200, b"b" * 200)
    os.makedirs(folder)
    path = os.path.join(folder, b"c" * 255)
    with open(path, "wb") as file:
        file.write(b"content")
    (found,) = reading_files.read_files([path], None, np.zeros(2, np.int64))
    assert words(found) == b"content"


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_steps_are_read_ahead_and_in_order(paths: list[Path], timeout: float | None) -> None:
    source, rng = ImageList(paths), np.random.default_rng(0)
    readings = Reader(source, timeout=timeout)
    steps = [rng.integers(1, 40, size) for size in (1, 7, 8, 40, 100)]
    under_way = [readings.submit(indices) for indices in steps]
    for indices, reading in zip(steps, under_way, strict=True):
        assert [words(each) for each in reading.result()] == [paths[index].read_bytes() for index in indices.tolist()]
        reading.release()
    assert readings.samples == sum(map(len, steps))
    assert readings.bytes_read == sum(1000 * int(indices.sum()) for indices in steps)
    readings.close()


def test_no_more_is_read_ahead_than_allowed(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest step is always read, however large it is."""
    monkeypatch.setattr(reader, "BYTES_AHEAD", 50_000)
    readings = Reader(ImageList(paths))
    under_way = [readings.submit(np.array([39, 38])) for _ in range(5)]
    under_way[0].result()
    before = readings.samples
    assert before < 10
    for reading in under_way:
        assert len(reading.result()) == 2
        reading.release()
    assert readings.samples == 10
    readings.close()


class Slow:
    """A source whose samples wait for a signal. Sample 2 raises, sample 3 is an error, the others are their numbers."""

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), []

    def __len__(self) -> int:
        return 9

    def read(self, indices: list[int]) -> list[Any]:
        self.asked.append(indices)
        if 7 in indices:
            self.go.wait(60)
        if 8 in indices:
            raise ZeroDivisionError("a mistake")
        if 2 in indices:
            raise OSError("it is away")
        return [KeyError("none") if index == 3 else bytes([index]) for index in indices]


def test_one_sample_of_a_source_that_fails() -> None:
    """An OSError belongs to one sample: each is read alone then. Any other exception is the source's mistake."""
    readings = Reader(as_source(Slow()))
    found = readings.submit(np.array([1, 2, 3, 4])).result()
    assert [words(each) for each in found] == [b"\1", "OSError", "KeyError", b"\4"]
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        readings.submit(np.array([1, 8])).result()
    readings.close()


def test_one_sample_of_a_source_that_blocks() -> None:
    """Which one it is shows when each is read alone. It is not waited for again until it ends."""
    source = Slow()
    readings = Reader(as_source(source), timeout=1.0)
    for _ in range(2):
        found = readings.submit(np.array([5, 6, 7, 1])).result()
        assert [words(each) for each in found] == [b"\5", b"\6", "TimeoutError", b"\1"]
    assert sum(7 in indices for indices in source.asked) == 2
    source.go.set()
    while reader._left_behind:
        pass
    assert words(readings.submit(np.array([7])).result()[0]) == b"\7"
    readings.close()


def test_a_step_that_nobody_wants() -> None:
    source = Slow()
    readings = Reader(as_source(source))
    reading, errors = readings.submit(np.array([7])), []

    def waits() -> None:
        try:
            reading.result()
        except CancelledReading as error:
            errors.append(error)

    waiting = threading.Thread(target=waits)
    waiting.start()
    reading.cancel()
    waiting.join(20)
    assert len(errors) == 1
    assert words(readings.submit(np.array([1])).result()[0]) == b"\1"
    source.go.set()
    readings.close()


HANGS = """
import os, signal, sys, threading
import gpuload
os.mkfifo(sys.argv[1] + "/a")
class Source:
    def __len__(self):
        return 4
    def read(self, indices):
        if 0 in indices:
            main = threading.main_thread().ident
            threading.Timer(1.0, signal.pthread_kill, (main, signal.SIGINT)).start()
        return [open(sys.argv[1] + "/a", "rb").read()]
loader = gpuload.Loader(Source(), gpuload.Augment(size=(8, 8)), batch_size=2, framework="numpy", device="cpu")
try:
    next(iter(loader))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_the_program_ends_although_a_source_hangs(tmp_path: Path) -> None:
    """Without a timeout too: after an interrupt nothing waits for the thread."""
    command = [sys.executable, "-c", HANGS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "interrupted\n", done.stderr
    assert done.returncode == 0
