"""Where the time goes: what is counted, and how it is shown."""

import gc
import io
import json
import math
import os
import pickle
import pty
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import gpuload
from gpuload.run import meter as meters
from gpuload.run.meter import KEPT, Meter
from gpuload.run.progress import _Epoch
from tests import cuda_host
from tests.conftest import Place

SOURCE = gpuload.ImageArray(np.zeros((23, 16, 16, 3), np.uint8), labels=np.arange(23))
TURNED = gpuload.Augment(rotation=10)
KEYS = {
    "batches",
    "samples",
    "seconds",
    "batches_per_second",
    "samples_per_second",
    "wait_share",
    "wait_ms",
    "deliver_ms",
    "queue_depth",
    "bytes_read",
    "bytes_per_second",
}

seconds = st.floats(0, 10, allow_subnormal=False)
steps = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 300), seconds, seconds, seconds, st.integers(0, 5)))


@given(epochs=st.lists(steps, max_size=4), last=st.integers(1, 12))
def test_the_arithmetic(epochs, last):
    """Against sums of plain Python. A step: batches, samples, seconds of the wall clock, waiting, delivery, queue."""
    now = 100.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meters.time, "perf_counter", lambda: now)
        meter = Meter()
        start = meter.totals()
        for epoch in epochs:
            now += 1000  # Nobody iterates, which does not count.
            start = meter.begin()
            for batches, samples, wall, wait, deliver, queued in epoch:
                now += wall
                meter.add(batches, samples, wait=wait, deliver=deliver, queued=queued, bytes_read=7 * samples)
    every = [step for epoch in epochs for step in epoch]
    recent = epochs[-1] if epochs else []
    for found, kept in (
        (meter.stats(), every),
        (meter.stats(last), every[-last:]),
        (meter.since(start).stats(), recent),
    ):
        batches, samples, wall, wait, deliver, queued = map(sum, zip((0,) * 6, *kept, strict=True))
        assert set(found) == KEYS
        assert (found["batches"], found["samples"], found["bytes_read"]) == (batches, samples, 7 * samples)
        assert found["seconds"] == pytest.approx(wall, abs=1e-9)
        assert found["queue_depth"] == pytest.approx(queued / max(1, len(kept)))
        assert found["deliver_ms"] == pytest.approx(1000 * deliver / max(1, batches), abs=1e-9)
        assert found["wait_ms"] == pytest.approx(1000 * wait / max(1, batches), abs=1e-9)
        if wall > 1e-3:
            assert found["batches_per_second"] == pytest.approx(batches / wall, rel=1e-6)
            assert found["samples_per_second"] == pytest.approx(samples / wall, rel=1e-6)
            assert found["bytes_per_second"] == pytest.approx(7 * samples / wall, rel=1e-6)
            assert found["wait_share"] == pytest.approx(min(1, wait / wall), rel=1e-6)
        assert all(math.isfinite(value) for value in found.values())
        assert 0 <= found["wait_share"] <= 1
        assert json.loads(json.dumps(found)) == found


def test_many_steps_are_kept_in_little_memory():
    meter = Meter()
    start = meter.begin()
    for number in range(5 * KEPT + 3):
        meter.add(1, 2, wait=0.0, deliver=0.0, queued=1, bytes_read=number)
    assert meter.stats()["samples"] == 2 * (5 * KEPT + 3)
    assert meter.since(start).samples == 2 * (5 * KEPT + 3)
    assert meter.stats(KEPT)["batches"] == KEPT
    assert meter.stats(2)["bytes_read"] == 2 * (5 * KEPT) + 3
    assert len(meter._recent) == KEPT


def test_threads_add_side_by_side_and_others_look():
    meter, each = Meter(), 20_000
    adding = threading.Barrier(5)
    looks = []

    def add() -> None:
        adding.wait()
        for _ in range(each):
            meter.add(1, 3, wait=0.5, deliver=0.25, queued=2, bytes_read=5)

    threads = [threading.Thread(target=add) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        adding.wait()
        while any(thread.is_alive() for thread in threads):
            looks.append((meter.stats()["batches"], meter.stats(KEPT)["queue_depth"]))
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    totals = meter.totals()
    assert totals[:3] == (4 * each, 4 * each, 12 * each)
    assert totals[4:] == (2 * each, each, 8 * each, 20 * each)
    assert [batches for batches, _ in looks] == sorted(batches for batches, _ in looks)
    assert {depth for _, depth in looks} <= {0, 2}


@pytest.mark.parametrize("last", [0, -1, 1025, 2.0, "all", True])
def test_other_numbers_of_steps_are_refused(last):
    rule = (
        "an integer of at least 1, not" if last != 1025 else "at most 1024, so many steps are kept, not 1025: pass None"
    )
    with pytest.raises(ValueError, match=f"last must be {rule}"):
        Meter().stats(last)


def test_nothing_yet():
    loader = gpuload.Loader(SOURCE, TURNED, batch_size=5, device="cpu")
    for stats in (loader.stats(), loader.stats(last=10)):
        assert {name: stats[name] for name in KEYS} == dict.fromkeys(KEYS, 0)
        assert stats["errors"] == 0


def test_a_loader_counts_what_it_delivers(place: Place):
    with gpuload.Loader(SOURCE, TURNED, batch_size=5, prefetch=3, **place._asdict()) as loader:
        for _ in range(3):
            assert len(list(loader)) == 5
        stats = loader.stats()
    assert (stats["batches"], stats["samples"], stats["errors"]) == (15, 69, 0)
    assert stats["queue_depth"] == 3  # The next epoch is made ahead too.
    assert 0 < stats["wait_share"] <= 1
    assert stats["seconds"] > 0
    assert json.loads(json.dumps(stats)) == stats
    assert loader.stats(last=1)["samples"] == 3


def test_a_consumer_that_takes_its_time_does_not_wait(place: Place):
    with gpuload.Loader(SOURCE, TURNED, batch_size=5, **place._asdict()) as loader:
        list(loader)
        for _ in loader:
            threading.Event().wait(0.1)
        slow = loader.stats(last=4)
    assert slow["wait_share"] < 0.9


def test_windows_are_counted_by_the_piece():
    values = np.zeros((5000, 7), np.float32)
    loader = gpuload.Loader(gpuload.Series(values), gpuload.Window(96), batch_size=64, device="cpu")
    count = sum(1 for _ in loader)
    stats = loader.stats()
    assert (stats["batches"], stats["samples"]) == (count, 5000 - 95)
    assert stats["bytes_read"] >= (5000 - 95) * 96 * 7 * 4
    assert loader.meter.totals().steps < count


def test_bytes_of_files_are_counted(photos: Path, place: Place):
    source = gpuload.ImageFolder(photos)
    transform = gpuload.Augment(size=(16, 16))
    with gpuload.Loader(source, transform, batch_size=4, prefetch=0, **place._asdict()) as loader:
        list(loader)
        stats = loader.stats()
    size = sum(path.stat().st_size for path in photos.rglob("*.*"))
    assert stats["bytes_read"] == pytest.approx(size, rel=0.5)
    assert {name for name in stats if name in ("read_ms", "decode_ms", "augment_ms")} == stages(place)
    assert all(stats[name] > 0 for name in stages(place))


def stages(place: Place) -> set[str]:
    """The stages that engines count: DALI does not tell how long it decodes, nor a GPU how long it augments."""
    augments = {"augment_ms"} if place.device == "cpu" else set()
    return augments | ({"read_ms", "decode_ms"} if place.engine == "numpy" else {"read_ms"})


def test_the_stages_of_a_loader_that_was_closed(photos: Path, place: Place):
    """What its engines counted is told on, and added to."""
    source, transform = gpuload.ImageFolder(photos), gpuload.Augment(size=(16, 16))
    with gpuload.Loader(source, transform, batch_size=4, prefetch=0, cache=None, **place._asdict()) as loader:
        list(loader)
    gc.collect()
    assert stages(place) <= set(loader.stats())
    gc.collect()
    list(loader)
    loader.close()
    gc.collect()
    for name in stages(place):
        assert loader.stats()[name] > 0


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_a_twin_s_stages_are_told_by_the_loader(photos: Path, engine: str):
    """As where Keras or TensorFlow is handed the batches of a loader."""
    source, transform = gpuload.ImageFolder(photos), gpuload.Augment(size=(8, 8))
    loader = gpuload.Loader(source, transform, batch_size=4, device="cpu", engine=engine)
    twin = loader.twin(framework="dlpack")
    batches = iter(twin)
    next(batches)
    assert stages(Place(engine, "cpu")) <= set(loader.stats())
    loader.close()
    with pytest.raises(RuntimeError, match="the loader was closed while it was iterated over"):
        next(batches)
    assert len(list(twin)) == 6
    assert loader.pool.cache is twin.pool.cache


def test_windows_in_a_data_loader():
    from gpuload.torch import DataLoader, TimeSeriesDataset

    with DataLoader(TimeSeriesDataset(np.arange(500.0), seq_length=5), 8, shuffle=True, device="cpu") as loader:
        batches = iter(loader)
        next(batches)
        rest = sum(1 for _ in batches)
        stats = loader.stats()
        assert (stats["batches"], stats["samples"], stats["errors"]) == (1 + rest, 496, 0)
        assert 0 < stats["wait_share"] <= 1
        assert stats["bytes_read"] >= 496 * 5 * 8
        assert loader.stats(last=1)["batches"] >= 1
        assert pickle.loads(pickle.dumps(loader)).stats()["batches"] == 0
        batches = iter(loader)
        next(batches)
    batches._course._here.clear()
    with pytest.raises(RuntimeError, match="the loader was closed while it was iterated over"):
        next(batches)
    assert len(list(loader)) == 62


def test_the_line_at_the_end_of_an_epoch(capsys: pytest.CaptureFixture[str], place: Place):
    list(gpuload.Loader(SOURCE, TURNED, batch_size=5, **place._asdict()))  # Compiles, which takes seconds.
    with gpuload.Loader(SOURCE, TURNED, batch_size=5, progress="summary", **place._asdict()) as loader:
        loader.set_epoch(3)
        list(loader)
        next(iter(loader))  # An epoch that is left early says nothing.
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("epoch 3: 5 batches, 23 samples in 0.")
    assert lines[0].endswith("% of the time")


def test_the_line_tells_bad_samples(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    source = gpuload.ImageList(["a.png", "b.png", "missing.png"], root=tmp_path)
    options = {"batch_size": 3, "device": "cpu", "engine": "numpy", "on_error": "skip"}
    with gpuload.Loader(source, gpuload.Augment(size=(8, 8)), progress="summary", **options) as loader:
        list(loader)
        list(loader)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(", 1 bad sample")
    assert "bad" not in second


def test_without_a_terminal_there_is_a_line_only(capsys: pytest.CaptureFixture[str]):
    with gpuload.Loader(SOURCE, TURNED, batch_size=5, device="cpu", progress=True) as loader:
        list(loader)
    assert len(capsys.readouterr().err.splitlines()) == 1


def in_a_terminal(script: str, *, stdout: int | None = None) -> tuple[str, str]:
    """Runs a program with a real terminal as stderr, and as stdout unless told otherwise; what came out of each."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=stdout or theirs, stderr=theirs, env=environment, text=True
    ) as program:
        os.close(theirs)
        shown = io.BytesIO()
        while True:
            try:
                shown.write(os.read(ours, 65536))
            except OSError:  # The other end is closed.
                break
        os.close(ours)
        printed = program.stdout.read() if program.stdout else ""
        program.wait(60)
    text = shown.getvalue().decode()
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR), text
    return text, printed


HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
LOADERS = """
    import sys, threading, time
    import numpy as np, gpuload
    source = gpuload.ImageArray(np.zeros((40, 8, 8, 3), np.uint8))
    options = {"batch_size": 4, "device": "cpu", "progress": True}
    first, second = (gpuload.Loader(source, gpuload.Augment(), **options) for _ in range(2))
    def threads():
        "Those that make no batches."
        return sum(not thread.name.startswith("gpuload") for thread in threading.enumerate())

    before = threads()

    def gone():
        "Whether the bar's thread ends: it was told to."
        deadline = time.monotonic() + 30
        while threads() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        return threads() == before
"""


def test_a_bar_in_a_terminal():
    """It shows how far the epoch has come, and gives way to a line; what is printed meanwhile is seen."""
    script = """
    for number, _ in enumerate(first):
        print(f"loss {number}")
        time.sleep(0.1)
    print("ended" if gone() and not hasattr(sys.stdout, "rich_proxied_file") else "left behind", flush=True)
    """
    text, _ = in_a_terminal(LOADERS + script)
    assert HIDE_CURSOR in text
    assert "epoch 0" in text
    assert "━" in text
    assert "waiting" in text
    assert " left" in text
    assert "10/10" in text
    assert all(f"loss {number}" in text for number in range(10))
    last = text.rindex("10/10")
    assert text.index("epoch 0: 10 batches, 40 samples in ") > last
    assert "\x1b[2K" in text[last:]  # The bar is wiped away.
    assert "ended" in text


def test_two_bars_are_one():
    script = """
    begun = iter(first)
    next(begun)
    time.sleep(0.5)
    assert len(list(second)) == 10
    rest = list(begun)
    print("ended" if gone() else "left behind", flush=True)
    """
    text, _ = in_a_terminal(LOADERS + script)
    assert text.count(HIDE_CURSOR) == 1
    assert text.count("epoch 0: 10 batches") == 2  # Both have their line.
    assert "ended" in text


def test_a_bar_beside_one_of_the_program_s_own():
    script = """
    import rich.progress
    for _ in rich.progress.track(range(3), "outer", transient=True):
        assert len(list(first)) == 10
    print("ended" if gone() else "left behind", flush=True)
    """
    text, _ = in_a_terminal(LOADERS + script)
    assert text.count(HIDE_CURSOR) == 1
    assert all(f"epoch {number}: 10 batches" in text for number in range(3))
    assert "ended" in text


def test_a_loader_that_is_closed_gives_the_terminal_back():
    """Also while its iterator is held, and where the bar is that of a twin."""
    script = """
    for loader in (first, first.twin(framework="dlpack")):
        batches = iter(loader)
        next(batches)
        time.sleep(0.5)
        first.close()
        assert gone() and not hasattr(sys.stdout, "rich_proxied_file")
    print("ended", flush=True)
    """
    text, _ = in_a_terminal(LOADERS + script)
    assert text.count(HIDE_CURSOR) == 2
    assert "epoch 0: " not in text
    assert "ended" in text


@pytest.mark.parametrize("leave", ["break", "raise RuntimeError('diverged')", "held.append(batches); break"])
def test_an_epoch_that_is_left_gives_the_terminal_back(leave):
    """When its iterator is dropped, or else at the end of the program."""
    script = f"""
    held = []
    batches = iter(first)
    for number, _ in enumerate(batches):
        if number == 4:
            {leave}
        time.sleep(0.1)
    del batches
    print("ended" if held or gone() else "left behind", flush=True)
    """
    text, _ = in_a_terminal(LOADERS + script)
    assert "5/10" in text
    assert "epoch 0: " not in text
    assert ("RuntimeError: diverged" if "diverged" in leave else "ended") in text


def test_a_bar_takes_nothing_from_a_file():
    """Rich writes what is printed above the bar: to the terminal, but not what was to go to a file."""
    script = """
    for number, _ in enumerate(first):
        print("loss", number)
    """
    text, printed = in_a_terminal(LOADERS + script, stdout=subprocess.PIPE)
    assert "10/10" in text
    assert printed.splitlines() == [f"loss {number}" for number in range(10)]


def test_colours_that_are_forced_make_no_terminal():
    script = textwrap.dedent(LOADERS) + "list(first)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "FORCE_COLOR": "1"}
    )
    assert len(result.stderr.splitlines()) == 1
    assert "\x1b" not in result.stderr


def test_what_a_bar_tells():
    """Of the last steps: how fast, how much training waits, and the time left; bad samples once there are any."""
    clock, bad = 0.0, 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meters.time, "perf_counter", lambda: clock)
        meter = Meter()
        epoch = _Epoch(3, 1250, meter, lambda: bad)
        assert drawn(epoch).split() == ["epoch", "3", "0/1,250"]
        for step in range(200):
            clock += 100.0 if step < 100 else 0.5  # Slow ones, long ago.
            meter.add(1, 32, wait=0.06, deliver=0.0, queued=2, bytes_read=0)
            epoch.done += 1
        assert drawn(epoch).endswith("  200/1,250  64/s  waiting 12%  0:08:45 left")
        bad += 2
        assert drawn(epoch).endswith("waiting 12%  2 bad samples  0:08:45 left")
        assert max(map(len, drawn(epoch, width=50).splitlines())) <= 50
        assert epoch.line() == (
            "epoch 3: 200 batches, 6,400 samples in 2:47:30 (0.64/s), waited 0% of the time, 2 bad samples"
        )


def drawn(epoch: _Epoch, width: int = 120) -> str:
    """The bar as text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(epoch.row())
    return console.file.getvalue().rstrip()


@pytest.mark.parametrize("progress", ["bar", 2, 1, None, []])
def test_other_kinds_of_progress_are_refused(progress):
    with pytest.raises(ValueError, match="progress must be True, False or 'summary', not"):
        gpuload.Loader(SOURCE, TURNED, batch_size=5, device="cpu", progress=progress)


WITHOUT_RICH = """
    import sys
    sys.modules["rich"] = None
    import importlib.util
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "rich" else find(name, *rest)
    import numpy as np, gpuload
    source = gpuload.ImageArray(np.zeros((4, 8, 8, 3), np.uint8))
    try:
        gpuload.Loader(source, gpuload.Augment(), batch_size=2, device="cpu", progress=True)
    except ImportError as error:
        print(error)
    list(gpuload.Loader(source, gpuload.Augment(), batch_size=2, device="cpu", progress="summary"))
"""


def test_a_bar_needs_rich():
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(WITHOUT_RICH)], capture_output=True, text=True)
    assert result.stdout == "progress=True needs rich, which is not installed: pip install 'gpuload[progress]'\n"
    assert result.stderr.startswith("epoch 0: 2 batches, 4 samples")


LISTENER = r"""
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

// What a profiler is to NVTX: a library that NVTX loads, and that puts functions of its own into NVTX's table.
struct Attributes {
    uint16_t version, size;
    uint32_t category;
    int32_t color_type;
    uint32_t color;
    int32_t payload_type, reserved;
    uint64_t payload;
    int32_t message_type;
    const char *message;
};
using Function = void (*)();
struct Callbacks {
    size_t size;
    int (*functions)(int module, Function ***table, unsigned *count);
};

const char *create(const char *name) { return strdup(name); }
const char *string(const char *, const char *text) { return strdup(text); }
int push(const char *domain, const Attributes *range) {
    std::fprintf(stderr, "push %s %s\n", domain, range->message);
    return 0;
}
int pop(const char *domain) {
    std::fprintf(stderr, "pop %s\n", domain);
    return 0;
}

extern "C" int InitializeInjectionNvtx2(const void *(*tables)(uint32_t)) {
    constexpr int CALLBACKS = 1, DOMAINS = 5;
    constexpr int PUSH = 4, POP = 5, REGISTER_STRING = 10, CREATE = 12;
    Function **table = nullptr;
    unsigned count = 0;
    static_cast<const Callbacks *>(tables(CALLBACKS))->functions(DOMAINS, &table, &count);
    *table[PUSH] = reinterpret_cast<Function>(push);
    *table[POP] = reinterpret_cast<Function>(pop);
    *table[REGISTER_STRING] = reinterpret_cast<Function>(string);
    *table[CREATE] = reinterpret_cast<Function>(create);
    return 1;
}
"""
RANGES = """
    import sys
    import numpy as np, gpuload
    assert "nvtx" not in sys.modules and "rich" not in sys.modules
    series = gpuload.Series(np.zeros(6, np.float32))
    loader = gpuload.Loader(series, gpuload.Window(1), batch_size=6, device="cpu", prefetch=0)
    list(loader)
    from gpuload.core import nvtx
    with nvtx.range("outer"), nvtx.range("outer"):
        try:
            with nvtx.range("inner"):
                raise ValueError
        except ValueError:
            pass
"""


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profiler, which writes what it hears to stderr."""
    pytest.importorskip("nvtx")
    if cuda_host.COMPILER is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("nvtx")
    (folder / "listener.cpp").write_text(LISTENER)
    cuda_host.compile_host("-shared", folder / "listener.cpp", "-o", folder / "listener.so")
    return folder / "listener.so"


def heard(script: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return [line for line in result.stderr.splitlines() if " gpuload" in line]


def test_a_profiler_hears_ranges(listener: Path):
    """Each step is submitted, waited for, delivered; ranges nest, and end where an exception is raised."""
    lines = heard(RANGES, NVTX_INJECTION64_PATH=str(listener))
    once = [part for name in ("submit", "wait", "deliver") for part in (f"push gpuload {name}", "pop gpuload")]
    assert lines[:6] == once
    nested = ["push gpuload outer", "push gpuload outer", "push gpuload inner", *["pop gpuload"] * 3]
    assert lines[-6:] == nested


def test_nobody_hears_ranges(listener: Path):
    """Without a profiler, where they are silenced, and where NVIDIA's package is not installed."""
    assert heard(RANGES) == []
    assert heard(RANGES, NVTX_DISABLE="1", NVTX_INJECTION64_PATH=str(listener)) == []
    missing = RANGES.replace("import sys", "import sys; import numpy; sys.modules['nvtx'] = None").replace(
        '"nvtx" not in sys.modules', "True"
    )
    assert missing != RANGES
    assert heard(missing, NVTX_INJECTION64_PATH=str(listener)) == []
