"""Decoded images that are kept: the batches are the same, whatever becomes of the cache."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import gpuload
from gpuload.cache import DeviceCache, DiskCache, HostCache, HostImages
from gpuload.cache.free import free_memory
from tests.conftest import THREADS, Place

AUGMENT = gpuload.Augment(size=(24, 32), rotation=20, shear=10, zoom=0.2, hflip=0.5, brightness=(0.5, 1.5))
EPOCHS = 3


@pytest.fixture
def files(photos: Path, tmp_path: Path) -> list[Path]:
    """Photographs of all kinds, changed last an hour ago, which a test may break."""
    folder = tmp_path / "photos"
    folder.mkdir()
    found = [
        Path(shutil.copy(path, folder / f"{n:02d}{path.suffix}")) for n, path in enumerate(sorted(photos.rglob("*.*")))
    ]
    for path in found:
        os.utime(path, (time.time() - 3600,) * 2)
    return found


def loader(files: list[Path], place: Place, transform: gpuload.Augment = AUGMENT, **options) -> gpuload.Loader:
    given = {"batch_size": 5, "shuffle": True, "seed": 3, "threads": THREADS, "framework": "numpy"}
    given |= {**place._asdict(), **options}
    return gpuload.Loader(gpuload.ImageList(files, labels=np.arange(len(files))), transform, **given)


def epochs(batches: gpuload.Loader, count: int = EPOCHS) -> list[np.ndarray]:
    """What so many epochs deliver, one array after another."""
    return [array for _ in range(count) for batch in batches for array in batch]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Bit by bit."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def read(batches: gpuload.Loader) -> int:
    return batches.stats()["bytes_read"]


def on_host(batches: gpuload.Loader) -> HostImages | None:
    """The images on the host: on a GPU they stand behind those on the device."""
    cache = batches.pool.cache
    return cache.host if isinstance(cache, DeviceCache) else cache


# The same batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform",
    [
        AUGMENT,
        gpuload.Augment(size=(24, 32), interpolation="nearest", shear=20, fill_mode="reflect", channel_shift=30),
        gpuload.Augment(size=(24, 32), antialias=False, zoom=0.3, rescale=1 / 255),
        gpuload.Augment(size=(24, 32), color="grayscale", crop=gpuload.CenterCrop(), per_sample="standardize"),
        gpuload.Augment(size=(24, 32), dtype="uint8", layout="CHW", vflip=0.5),
    ],
    ids=["bilinear", "nearest", "floating", "cropped grey", "uint8"],
)
@pytest.mark.parametrize("kind", ["host", "path"])
def test_batches_are_the_same_with_it_and_without(
    files: list[Path], place: Place, tmp_path: Path, kind: str, transform: gpuload.Augment
) -> None:
    cache = kind if kind == "host" else tmp_path / "pixels"
    with loader(files, place, transform, cache=None) as without:
        expected = epochs(without)
    with loader(files, place, transform, cache=cache) as with_it:
        assert_same(epochs(with_it), expected)
        once = read(with_it)
        epochs(with_it)
        assert read(with_it) == once


@pytest.mark.parametrize("size", [(32, 48), (20, 20)])
@pytest.mark.parametrize("color", ["rgb", "grayscale"])
def test_random_crops_are_cut_out_of_what_is_kept(
    files: list[Path], place: Place, tmp_path: Path, size: tuple[int, int], color: str
) -> None:
    """The same as from images that were resized before: what torchvision calls Resize, then RandomResizedCrop."""
    crop, shape = gpuload.RandomResizedCrop(scale=(0.3, 1.0)), (16, 24)
    transform = gpuload.Augment(size=shape, crop=crop, color=color, hflip=0.5)
    if place.device != "cpu":
        with pytest.raises(ValueError, match="size of the cache is for images made on cpu, not on cuda:0: pass device"):
            loader(files, place, transform, cache=gpuload.Cache(size=size))
        return
    with loader(files, place, gpuload.Augment(size=size, color=color, dtype="uint8"), shuffle=False) as resized:
        small = np.concatenate([images for images, _ in resized])
    folder = tmp_path / "small"
    folder.mkdir()
    paths = [folder / f"{number:02d}.png" for number in range(len(small))]
    for path, image in zip(paths, small, strict=True):
        Image.fromarray(image if color == "rgb" else image[:, :, 0]).save(path)
    with loader(paths, Place("numpy", "cpu"), transform) as from_small:
        expected = epochs(from_small)
    for cache in ("auto", "host", tmp_path / "pixels", tmp_path / "pixels"):
        with loader(files, place, transform, cache=gpuload.Cache(place=cache, size=size)) as kept:
            assert_same(epochs(kept), expected)
    assert read(kept) == 0
    with pytest.raises(ValueError, match=r"cache_size was the default|cache_size was None, and is \(32, 48\)|and is"):
        loader(files, place, transform, cache=gpuload.Cache(size=size)).load_state_dict(
            loader(files, place, transform).state_dict()
        )


def test_it_is_there_by_default(files: list[Path], place: Place) -> None:
    with loader(files, place) as batches:
        epochs(batches, 2)  # The first batches of the second are made before the last of the first is kept.
        before = read(batches)
        for path in files:
            path.unlink()
        epochs(batches, 2)
        assert read(batches) == before > 0


@pytest.mark.parametrize("room", [0, 1, 7, 22])
@pytest.mark.parametrize("kind", ["host", "path"])
def test_what_does_not_fit_is_decoded_in_each_epoch(
    files: list[Path], place: Place, tmp_path: Path, kind: str, room: int
) -> None:
    image = 24 * 32 * 3
    limit = room * image + 100 if kind == "host" else 2 * 4096 + room * (image + 32)
    with loader(files, place, cache=None) as without:
        expected = epochs(without)
    cache = kind if kind == "host" else tmp_path / "pixels"
    with loader(files, place, cache=gpuload.Cache(place=cache, limit=limit)) as some:
        assert_same(epochs(some), expected)
        kept = on_host(some)
        assert (kept.capacity if kept else 0) == room
        if kind == "path" and room:
            assert os.path.getsize(cache) <= limit


def test_keras_doors_have_it(files: list[Path], place: Place) -> None:
    from gpuload.keras import ImageSequence

    given = {"target_size": (24, 32), **place._asdict()}
    labels = np.arange(len(files))
    plain = ImageSequence(files, labels, 4, cache=None, **given)
    expected = [plain[n][0] for n in range(len(plain))]
    kept = ImageSequence(files, labels, 4, **given)
    for _ in range(2):
        assert_same([kept[n][0] for n in range(len(kept))], expected)
    for path in files:
        path.unlink()
    assert_same([kept[n][0] for n in range(len(kept))], expected)


def test_bad_files_are_bad_with_it_too(files: list[Path], place: Place, tmp_path: Path) -> None:
    files[3].write_bytes(b"no image")
    for cache in ("host", tmp_path / "pixels"):
        with loader(files, place, cache=None, on_error="replace") as without:
            expected = epochs(without)
        with loader(files, place, cache=cache, on_error="replace") as kept:
            assert_same(epochs(kept), expected)
            assert [bad.index for bad in kept.errors] == [3]


def test_an_epoch_that_goes_on_in_the_middle_has_a_partly_filled_cache(files: list[Path], place: Place) -> None:
    with loader(files, place, cache=None) as without:
        batches = iter(without)
        next(batches)
        state = without.state_dict()
        expected = [array for batch in batches for array in batch] + epochs(without)
    with loader(files, place, cache="host") as kept:
        kept.load_state_dict(state)
        assert_same(epochs(kept, EPOCHS + 1), expected)


def test_streams_side_by_side_share_it(files: list[Path], place: Place) -> None:
    with loader(files, place, cache=None) as without:
        expected = [[array for batch in without.batches(epoch) for array in batch] for epoch in range(4)]
    found: dict[int, list[np.ndarray]] = {}
    with loader(files, place, cache="host") as kept:

        def take(epoch: int) -> None:
            found[epoch] = [array for batch in kept.batches(epoch) for array in batch]

        threads = [threading.Thread(target=take, args=(epoch,)) for epoch in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for epoch in range(4):
        assert_same(found[epoch], expected[epoch])


def test_closing_lets_go_of_it(files: list[Path], place: Place) -> None:
    batches = loader(files, place, cache="host")
    first = epochs(batches, 1)
    batches.close()
    batches.set_epoch(0)
    before = read(batches)
    assert_same(epochs(batches, 1), first)
    assert read(batches) > 1.5 * before


# The host's memory ----------------------------------------------------------------------------------------------------


@given(
    size=st.integers(1, 30),
    capacity=st.integers(0, 40),
    puts=st.lists(st.lists(st.integers(0, 29), max_size=6, unique=True), max_size=8),
)
def test_host_memory_holds_what_was_put(size: int, capacity: int, puts: list[list[int]]) -> None:
    cache = HostCache(size, (2,), "uint8", limit=max(1, 2 * capacity))
    capacity = min(size, capacity)
    there: set[int] = set()
    for put in puts:
        indices = np.array([index for index in put if index < size], np.int64)
        cache.put(indices, np.stack([indices, indices], 1).astype(np.uint8))
        there |= {index for index in indices.tolist() if index < capacity}
        rows = cache.rows(np.arange(size))
        assert rows.tolist() == [index if index in there else -1 for index in range(size)]
        assert all(cache.images[index].tolist() == [index, index] for index in there)
    assert cache.count == len(there)


def test_it_stops_where_others_take_the_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpuload.cache.host._AGAIN", 10)
    monkeypatch.setattr("gpuload.cache.host.free_memory", lambda: 1000)
    cache = HostCache(100, (5,), "uint8", limit=0.5)
    assert cache.capacity == 100
    cache.put(np.arange(4), np.ones((4, 5), np.uint8))
    monkeypatch.setattr("gpuload.cache.host.free_memory", lambda: 20)
    with caplog.at_level(logging.INFO, "gpuload"):
        cache.put(np.arange(4, 50), np.ones((46, 5), np.uint8))
    assert cache.count == 4
    assert "the cache is full: 4 images" in caplog.text


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({}, 8000 * 1024),
        ({"memory.max": "max", "memory.current": "1", "memory.stat": ""}, 8000 * 1024),
        (
            {"memory.max": "5000000", "memory.current": "1500000", "memory.stat": "anon 1\ninactive_file 500000\n"},
            4000000,
        ),
        ({"memory.max": "100", "memory.current": "200", "memory.stat": ""}, 0),
    ],
)
def test_free_memory_is_that_of_the_control_group(tmp_path: Path, groups: dict[str, str], expected: int) -> None:
    proc, top = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  16000 kB\nMemAvailable:    8000 kB\n")
    (proc / "self" / "cgroup").write_text("0::/training/one\n")
    (top / "training" / "one").mkdir(parents=True)
    for name, text in groups.items():
        (top / "training" / name).write_text(text)
    assert free_memory(proc, top) == expected


def test_free_memory_of_version_1(tmp_path: Path) -> None:
    proc, top = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemAvailable:    8000 kB\n")
    (proc / "self" / "cgroup").write_text("5:cpu,cpuacct:/box\n4:memory:/box\n")
    (top / "memory").mkdir(parents=True)
    for name, text in (("limit_in_bytes", "3000"), ("usage_in_bytes", "1000"), ("stat", "total_inactive_file 5\n")):
        (top / "memory" / f"memory.{name}").write_text(text)
    assert free_memory(proc, top) == 2005
    assert free_memory() > 0


# A file ---------------------------------------------------------------------------------------------------------------


def test_a_later_run_reads_no_image(files: list[Path], place: Place, tmp_path: Path) -> None:
    with loader(files, place, cache=tmp_path / "pixels") as first:
        expected = epochs(first)
    with loader(files, place, cache=tmp_path / "pixels") as later:
        assert_same(epochs(later), expected)
        assert read(later) == 0


def test_a_file_that_changed_is_decoded_again(
    files: list[Path], place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pixels"
    with loader(files, place, cache=path) as first:
        epochs(first, 1)
    shutil.copy(files[1], files[0])
    os.utime(files[0], (time.time() - 60,) * 2)
    with loader(files, place, cache=None) as without:
        expected = epochs(without)
    with loader(files, place, cache=path) as later:
        assert_same(epochs(later), expected)
    assert "samples that have changed since" in caplog.text
    # Whoever opens it next keeps the new image; and the one after that has it.
    for _ in range(2):
        with loader(files, place, cache=path) as later:
            assert_same(epochs(later), expected)
    assert read(later) == 0


def test_a_file_that_was_changed_just_now_is_not_kept(files: list[Path], place: Place, tmp_path: Path) -> None:
    """It might be changed once more before the clock of its file system has moved on."""
    # An hour ahead of the clock: it is still new when a pipeline is open, which may take long.
    os.utime(files[4], (time.time() + 3600,) * 2)
    with loader(files, place, cache=tmp_path / "pixels", shuffle=False, batch_size=1) as batches:
        iterator = iter(batches)
        for _ in range(6):
            next(iterator)
        kept = on_host(batches)
        assert kept is not None
        rows = kept.rows(np.array([3, 4, 5]))
    assert (rows >= 0).tolist() == [True, False, True]


@pytest.mark.parametrize(
    "changes",
    [{"size": (32, 24)}, {"interpolation": "nearest"}, {"color": "grayscale"}, {"crop": gpuload.CenterCrop()}],
    ids=str,
)
def test_other_images_are_never_served(
    files: list[Path], place: Place, tmp_path: Path, changes: dict, caplog: pytest.LogCaptureFixture
) -> None:
    with loader(files, place, cache=tmp_path / "pixels") as first:
        epochs(first, 1)
    other = AUGMENT.replace(**changes)
    with loader(files, place, other, cache=None) as without:
        expected = epochs(without)
    with loader(files, place, other, cache=tmp_path / "pixels") as later:
        assert_same(epochs(later), expected)
    assert "holds other images" in caplog.text


def test_other_files_and_other_engines_are_other_images(files: list[Path], tmp_path: Path, dali: Place) -> None:
    path, numpy = tmp_path / "pixels", Place("numpy", "cpu")
    for some, place in ((files, dali), (files, numpy), (files[1:], numpy), (files[:0:-1], numpy)):
        with loader(some, place, cache=None) as without:
            expected = epochs(without)
        with loader(some, place, cache=path) as later:
            assert_same(epochs(later), expected)
            assert read(later) > 0


def damage(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize("what", ["pixels", "records", "header", "cut short", "longer", "empty"])
def test_damage_is_told_and_decoded(
    files: list[Path], place: Place, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pixels"
    with loader(files, place, cache=path) as first:
        expected = epochs(first, 1)
    size = os.path.getsize(path)
    if what == "pixels":
        damage(path, size - 5000, os.urandom(4000))
    elif what == "records":
        damage(path, 4096, os.urandom(300))
    elif what == "header":
        damage(path, 30, os.urandom(50))
    else:
        os.truncate(path, {"cut short": size - 1, "longer": size + 4096, "empty": 0}[what])
    with loader(files, place, cache=path) as later:
        assert_same(epochs(later, 1), expected)
    if what != "empty":
        assert f"cache={str(path)!r}" in caplog.text
    with loader(files, place, cache=path) as again:
        assert_same(epochs(again, 1), expected)
    with loader(files, place, cache=path) as whole:
        assert_same(epochs(whole, 1), expected)
        assert read(whole) == 0


def test_a_file_that_is_cut_short_under_a_loader(
    files: list[Path], place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pixels"
    with loader(files, place, cache=None) as without:
        expected = epochs(without)
    with loader(files, place, cache=path, prefetch=0) as batches:
        found = epochs(batches, 1)
        os.truncate(path, 5000)
        assert_same(found + epochs(batches, 2), expected)
    assert "was cut short while it was used" in caplog.text


def test_a_file_of_somebody_elses_is_left_alone(files: list[Path], place: Place, tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader")
    with (
        pytest.raises(ValueError, match=r"cache='.*letter.txt' must be a file that gpuload wrote.*pass another path"),
        loader(files, place, cache=path) as batches,
    ):
        next(iter(batches))
    assert path.read_text() == "Dear reader"
    with (
        pytest.raises(ValueError, match="must be the path of a file, or where one can be made"),
        loader(files, place, cache=tmp_path) as batches,
    ):
        next(iter(batches))
    with (
        pytest.raises(ValueError, match="must lie in a folder that is there: make"),
        loader(files, place, cache=tmp_path / "nowhere" / "pixels") as batches,
    ):
        next(iter(batches))


def test_a_full_disk(
    files: list[Path], place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five images there is no room. (What the system says of a full disk is said here by ourselves.)"""
    written: list[int] = []
    pwrite = os.pwrite

    def full(file: int, data: bytes, at: int) -> int:
        if len(data) > 1000:
            written.append(at)
            if len(written) > 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, data, at)

    with loader(files, place, cache=None) as without:
        expected = epochs(without)
    monkeypatch.setattr("gpuload.cache.disk.os.pwrite", full)
    with loader(files, place, cache=tmp_path / "pixels") as batches:
        assert_same(epochs(batches), expected)
        assert on_host(batches).count == 5
    assert "No space left on device" in caplog.text
    assert len(written) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system of its own")
def test_a_disk_that_is_really_full(files: list[Path], place: Place, tmp_path: Path) -> None:
    """A limit on the size of files is the nearest to a full disk that a program may set for itself."""
    program = """
        import resource, signal, sys
        import numpy as np, gpuload
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        source = gpuload.ImageList(sys.argv[4:], labels=np.arange(len(sys.argv) - 4))
        transform = gpuload.Augment(size=(24, 32))
        options = {"batch_size": 5, "engine": sys.argv[1], "device": sys.argv[2], "framework": "numpy"}
        sums = []
        for cache in (None, sys.argv[3]):
            loader = gpuload.Loader(source, transform, cache=cache, **options)
            sums.append([float(images.sum()) for _ in range(2) for images, _ in loader])
            # Only now: libraries write files of their own as they start, and kernels are kept on disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        assert sums[0] == sums[1]
    """
    command = [sys.executable, "-c", textwrap.dedent(program), *place, str(tmp_path / "pixels"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "images are decoded in each epoch" in done.stderr


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_cannot_be_written_to(
    files: list[Path],
    place: Place,
    tmp_path: Path,
    there: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tests may run as a user who may write everywhere, so it is `open` that says no."""
    path = tmp_path / "pixels"
    with loader(files, place, cache=path if there else None) as without:
        expected = epochs(without)
    opened, opened_low = open, os.open

    def refuse(name, mode="r", *args, **options):
        if mode == "xb":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return opened(name, mode, *args, **options)

    def refuse_low(name, flags, *args, **options):
        if str(name) == str(path) and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return opened_low(name, flags, *args, **options)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("gpuload.cache.disk.os.open", refuse_low)
    with loader(files, place, cache=path) as batches:
        assert_same(epochs(batches), expected)
    assert "Permission denied" in caplog.text
    assert (read(batches) == 0) == there


SHARED = """
    import hashlib, sys
    import numpy as np, gpuload
    source = gpuload.ImageList(sys.argv[4:], labels=np.arange(len(sys.argv) - 4))
    transform = gpuload.Augment(size=(24, 32), rotation=20)
    options = {"batch_size": 5, "engine": sys.argv[1], "device": sys.argv[2], "framework": "numpy", "seed": 1}
    digest = hashlib.sha256()
    loader = gpuload.Loader(source, transform, cache=sys.argv[3] or None, shuffle=True, **options)
    for _ in range(4):
        for images, labels in loader:
            digest.update(images.tobytes() + labels.tobytes())
    print(digest.hexdigest(), loader.stats()["bytes_read"])
"""


def shared(files: list[Path], place: Place, path: str) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(SHARED), *place, path, *map(str, files)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_share_it(files: list[Path], place: Place, tmp_path: Path) -> None:
    """Three that make it and fill it at the same time, and one after them."""
    expected = shared(files, place, "").communicate(timeout=120)[0].split()[0]
    several = [shared(files, place, str(tmp_path / "pixels")) for _ in range(3)]
    for process in several:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert out.split()[0] == expected
    out, errors = shared(files, place, str(tmp_path / "pixels")).communicate(timeout=120)
    assert out.split() == [expected, "0"], errors


def test_a_writer_that_is_killed_leaves_it_valid(files: list[Path], dali: Place, tmp_path: Path) -> None:
    path = tmp_path / "pixels"
    with loader(files, dali, cache=None) as without:
        expected = epochs(without)
    for _ in range(6 if dali.device == "cpu" else 2):  # Processes with a GPU take long to start.
        process = shared(files, dali, str(path))
        deadline = time.monotonic() + 60
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02 * np.random.default_rng().random())
        process.kill()
        process.communicate()
        with loader(files, dali, cache=path) as batches:
            assert_same(epochs(batches), expected)
        damage(path, 4096, bytes(32 * 10))  # The next one has something to write.


@settings(max_examples=30)
@given(operations=st.lists(st.tuples(st.sampled_from("prctd"), st.integers(0, 7)), max_size=25))
def test_no_wrong_image_ever(tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]]) -> None:
    """Images are put and read, files change, the cache is closed and opened, its bytes are damaged, in any order."""
    folder = tmp_path_factory.mktemp("model")
    sources = [folder / f"{n}" for n in range(8)]
    content = dict.fromkeys(range(8), 0)
    clock = 1_000_000_000

    def change(number: int) -> None:
        nonlocal clock
        clock += 1_000_000_000
        content[number] += 1
        sources[number].write_bytes(bytes(content[number]))
        os.utime(sources[number], ns=(clock, clock))

    for number in range(8):
        change(number)

    def opened() -> DiskCache:
        return DiskCache(str(folder / "pixels"), {"key": 1}, gpuload.ImageList(sources), (50,), "uint8")

    cache, served = opened(), {}
    for operation, number in operations:
        at = np.array([number])
        if operation in "pr":
            (row,) = cache.rows(at)
            if row >= 0:
                # As it was when this process first saw it, or later.
                value = set(cache.images[row].tolist())
                assert value <= set(range(served.get(number, content[number]), content[number] + 1))
                served.setdefault(number, value.pop())
                assert not value
            elif operation == "p":
                cache.put(at, np.full((1, 50), content[number], np.uint8))
                served[number] = content[number]
        elif operation == "c":
            cache.close()
            cache, served = opened(), {}
        elif operation == "t":
            change(number)
        elif not served:  # What a process has checked, and is damaged afterwards, nobody sees.
            damage(folder / "pixels", 8192 + 50 * number + 7, b"\xff")
    cache.close()


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": 5}, "cache must be 'auto', 'device', 'host', None or the path of a file, not 5"),
        ({"cache": ""}, "cache must be 'auto', 'device', 'host', None or the path of a file, not ''"),
        ({"limit": 0}, "limit must be a number of bytes of at least 1"),
        ({"limit": "much"}, "limit must be a number of bytes of at least 1, such as .*, not 'much'"),
        ({"limit": 1.5}, "limit as a float is a share of what is free"),
        ({"place": None, "limit": 5}, "limit=5 is for a cache, but place is None"),
        ({"size": (32, 32)}, r"size=\(32, 32\) of the cache is for RandomResizedCrop"),
        ({"size": 32}, r"size must be \(height, width\) in pixels, not 32"),
        ({"place": None, "size": (8, 8)}, r"size=\(8, 8\) is for a cache, but place is None"),
        ({"cache": "device", "device": "cpu"}, "cache='device' keeps images on a GPU, but they are made on cpu"),
    ],
)
def test_what_makes_no_sense(files: list[Path], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(
            files, Place("numpy", "cpu"), **({**options} if "cache" in options else {"cache": gpuload.Cache(**options)})
        )


def test_images_in_memory_and_windows_need_none(files: list[Path]) -> None:
    images = gpuload.ImageArray(np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="these are in memory: leave it out"):
        gpuload.Loader(images, gpuload.Augment(), batch_size=2, cache="host", device="cpu")
    with pytest.raises(ValueError, match="cache is for images that are read from files, not for a Series"):
        gpuload.Loader(gpuload.Series(np.arange(9)), gpuload.Window(2), batch_size=2, cache="host", device="cpu")


def test_a_random_crop_leaves_nothing_to_keep(
    files: list[Path], place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    transform = gpuload.Augment(size=(32, 32), crop=gpuload.RandomResizedCrop())
    with caplog.at_level(logging.INFO, "gpuload"), loader(files, place, transform) as batches:
        epochs(batches, 1)
        assert on_host(batches) is None
        assert batches.pool.cache is None or batches.pool.cache.capacity == 0
    assert "decoded in each epoch, since RandomResizedCrop" in caplog.text
    with pytest.raises(ValueError, match="which RandomResizedCrop makes different in each epoch: leave it out"):
        loader(files, place, transform, cache="host")


def test_options_are_plain(tmp_path: Path) -> None:
    assert gpuload.Cache().path is None
    assert gpuload.Cache(place=tmp_path / "a").path == str(tmp_path / "a")
    assert gpuload.Cache(limit="1.5 GiB") == gpuload.Cache(limit=3 * 2**29) == gpuload.Cache(limit=np.int64(3 * 2**29))
    assert json.dumps(vars(gpuload.Cache(place="host"))) == '{"place": "host", "limit": null, "size": null}'
