"""The native door: epochs, order, length, errors on the way, engines shared and given back, threads and forks."""

import concurrent.futures.thread
import gc
import itertools
import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import THREADS, Place
from hypothesis import given
from hypothesis import strategies as st

import gpuload

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 12, 10, 3), dtype=np.uint8)
SOURCE = gpuload.ImageArray(IMAGES, labels=np.arange(23))
RANDOM = gpuload.Augment(rotation=20, zoom=(0.8, 1.2), hflip=0.5, brightness=(0.5, 1.5))


def arrays(loader: gpuload.Loader) -> tuple[np.ndarray, np.ndarray]:
    """All of an epoch."""
    images, labels = zip(*loader, strict=True)
    return np.concatenate(images), np.concatenate(labels)


@given(
    size=st.integers(1, 23),
    batch_size=st.integers(1, 30),
    last_batch=st.sampled_from(["keep", "drop", "pad"]),
    shuffle=st.booleans(),
    prefetch=st.integers(0, 3),
)
def test_length_is_exact(size: int, batch_size: int, last_batch, shuffle: bool, prefetch: int) -> None:
    def loader() -> gpuload.Loader:
        return gpuload.Loader(
            SOURCE.take(np.arange(size)),
            gpuload.Augment(),
            batch_size=batch_size,
            last_batch=last_batch,
            shuffle=shuffle,
            seed=1,
            prefetch=prefetch,
            device="cpu",
            engine="numpy",
        )

    if last_batch == "drop" and size < batch_size:
        with pytest.raises(ValueError, match="last_batch='drop' leaves no batch"):
            loader()
        return
    with loader() as it:
        for _ in range(2):
            batches = [labels for _, labels in it]
            assert len(batches) == len(it)
            assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
            seen = np.concatenate(batches)
            if last_batch == "keep":
                assert sorted(seen) == list(range(size))
            elif last_batch == "drop":
                assert len(set(seen)) == len(seen) == size // batch_size * batch_size
            else:
                assert len(seen) == len(it) * batch_size
                assert set(seen) == set(range(size))


def test_epochs(place: Place) -> None:
    """Each iteration is the next epoch, an early end included; set_epoch goes to any; the seed decides all."""
    options = {"batch_size": 5, "shuffle": True, "seed": 7, "framework": "numpy", **place._asdict()}
    loader = gpuload.Loader(SOURCE, RANDOM, **options)
    epochs = [arrays(loader) for _ in range(3)]
    assert not np.array_equal(epochs[0][1], epochs[1][1])
    again = gpuload.Loader(SOURCE, RANDOM, **options)
    for batch in again:
        np.testing.assert_array_equal(batch[1], epochs[0][1][:5])
        break
    for number in (1, 2):
        images, labels = arrays(again)
        np.testing.assert_array_equal(labels, epochs[number][1])
        np.testing.assert_array_equal(images, epochs[number][0])
    for number in (2, 0, 1, 2):
        again.set_epoch(number)
        np.testing.assert_array_equal(arrays(again)[0], epochs[number][0])
    other = gpuload.Loader(SOURCE, RANDOM, **{**options, "seed": 8})
    assert not np.array_equal(arrays(other)[1], epochs[0][1])
    with pytest.raises(ValueError, match="epoch must be an integer of at least 0, not -1"):
        again.set_epoch(-1)


def test_batch_size_changes_nothing_for_a_sample(place: Place) -> None:
    options = {"shuffle": True, "seed": 3, "framework": "numpy", **place._asdict()}
    one, other = (arrays(gpuload.Loader(SOURCE, RANDOM, batch_size=n, **options)) for n in (4, 23))
    np.testing.assert_array_equal(one[1], other[1])
    np.testing.assert_allclose(one[0], other[0], atol=1e-3)


def test_a_seed_is_drawn_and_told() -> None:
    first = gpuload.Loader(SOURCE, RANDOM, batch_size=5, shuffle=True, device="cpu")
    second = gpuload.Loader(SOURCE, RANDOM, batch_size=5, shuffle=True, seed=first.seed, device="cpu")
    np.testing.assert_array_equal(arrays(first)[0], arrays(second)[0])
    assert f"seed={first.seed}" in repr(first)


def test_iterators_side_by_side(place: Place) -> None:
    loader = gpuload.Loader(SOURCE, RANDOM, batch_size=5, seed=1, framework="numpy", **place._asdict())
    alone = [arrays(loader)[0] for _ in range(2)]
    loader.set_epoch(0)
    pairs = list(zip(loader, loader, strict=True))
    np.testing.assert_array_equal(np.concatenate([a for (a, _), _ in pairs]), alone[0])
    np.testing.assert_array_equal(np.concatenate([b for _, (b, _) in pairs]), alone[1])


def test_held_batches_never_change(place: Place) -> None:
    loader = gpuload.Loader(SOURCE, RANDOM, batch_size=2, seed=1, framework="numpy", **place._asdict())
    held = [images for images, _ in loader]
    copies = [images.copy() for images in held]
    for _ in range(5):
        for _batch in loader:
            pass
    for images, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(images, copy)
        assert images.flags.writeable


def test_without_labels_images_come_alone() -> None:
    (batch,) = gpuload.Loader(gpuload.ImageArray(IMAGES), gpuload.Augment(), batch_size=23, device="cpu")
    np.testing.assert_array_equal(batch, IMAGES)


def test_labels_of_any_shape(photos: Path) -> None:
    paths = sorted(photos.glob("*/*.jpg"))[:4]
    for labels in (["a", "b", "c", "d"], np.zeros((4, 2, 3), np.float16), [True, False, True, False]):
        source = gpuload.ImageList(paths, labels)
        _, got = next(iter(gpuload.Loader(source, gpuload.Augment(size=(8, 8)), batch_size=4, device="cpu")))
        np.testing.assert_array_equal(got, labels)
        assert got.dtype == np.asarray(labels).dtype


def test_bad_arguments(photos: Path) -> None:
    folder = gpuload.ImageFolder(photos)
    augment = gpuload.Augment(size=(8, 8))
    for message, source, transform, options in [
        ("size must be given", folder, gpuload.Augment(), {}),
        ("transform must be a gpuload.Augment", folder, None, {}),
        ("batch_size must be an integer of at least 1, not 0", folder, augment, {"batch_size": 0}),
        ("batch_size must be an integer of at least 1, not 2.5", folder, augment, {"batch_size": 2.5}),
        ("prefetch must be an integer of at least 0, not -1", folder, augment, {"prefetch": -1}),
        ("threads must be an integer of at least 1, not 0", folder, augment, {"threads": 0}),
        ("seed must be an integer of at least 0, not 'x'", folder, augment, {"seed": "x"}),
        ("last_batch must be one of keep, drop, pad, not 'fill'", folder, augment, {"last_batch": "fill"}),
        (
            "framework must be one of numpy, torch, tensorflow, jax, cupy, dlpack, not 'mxnet'",
            folder,
            augment,
            {"framework": "mxnet"},
        ),
        ("framework='cupy' needs a GPU", folder, augment, {"framework": "cupy", "device": "cpu"}),
        ("size and crop are for images that are read from files", SOURCE, augment, {}),
        (
            "std must be one number, or one for each of the images' 3",
            SOURCE,
            gpuload.Augment(color="rgba", std=[1] * 4),
            {},
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            gpuload.Loader(source, transform, **{"batch_size": 4, "device": "cpu", **options})


def test_from_several_threads(photos: Path, place: Place) -> None:
    """Loaders in threads of their own, and one iterator used by a thread that did not make it."""

    def epoch(seed: int) -> np.ndarray:
        transform = gpuload.Augment(size=(16, 16), shear=10, interpolation="nearest")
        options = {"batch_size": 4, "shuffle": True, "seed": seed, "threads": THREADS, "framework": "numpy"}
        options |= place._asdict()
        return arrays(gpuload.Loader(gpuload.ImageFolder(photos), transform, **options))[0]

    alone = [epoch(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for expected, images in zip(alone, pool.map(epoch, range(4)), strict=True):
            np.testing.assert_array_equal(images, expected)
    batches = iter(gpuload.Loader(SOURCE, RANDOM, batch_size=5, **place._asdict()))
    thread = threading.Thread(target=next, args=(batches,))
    thread.start()
    thread.join()
    assert len(list(batches)) == 4


def tasks() -> int:
    """Threads of this process, DALI's included."""
    return len(os.listdir("/proc/self/task"))


def settled() -> int:
    """Threads, once those of closed loaders have ended."""
    gc.collect()
    for _ in range(20):
        before = tasks()
        threading.Event().wait(0.05)
        if tasks() == before:
            break
    return tasks()


def wait_for(condition) -> None:
    """A pool's threads end on their own, shortly after they are told to."""
    for _ in range(100):
        if condition():
            return
        threading.Event().wait(0.05)
    assert condition()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux tells them")
def test_engines_are_used_again_and_freed(place: Place) -> None:
    loader = gpuload.Loader(SOURCE, RANDOM, batch_size=5, **place._asdict())
    with loader:
        list(loader)  # Libraries that start threads of their own have started them.
    before = settled()
    next(iter(loader))
    running = tasks()
    for _ in range(10):
        next(iter(loader))
    for _ in range(2):
        assert len(list(loader)) == 5
    assert tasks() <= running
    loader.close()
    gc.collect()
    wait_for(lambda: tasks() <= before)
    assert len(list(loader)) == 5  # It can be used again.


def run(script: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **options)


FORK = """
    import os, sys
    import numpy as np, gpuload
    source = gpuload.ImageArray(np.zeros((20, 8, 8, 3), np.uint8))
    loader = gpuload.Loader(source, gpuload.Augment(shear=5), batch_size=2, engine=sys.argv[1], device=sys.argv[2])
    batches = iter(loader)
    next(batches)
    child = os.fork()
    if child == 0:
        for attempt in (lambda: next(batches), lambda: next(iter(loader))):
            try:
                attempt()
            except RuntimeError as error:
                assert "fork" in str(error)
            else:
                os._exit(3)
        fresh = gpuload.Loader(source, gpuload.Augment(shear=5), batch_size=2, engine=sys.argv[1], device="cpu")
        assert len(list(fresh)) == 10
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), len(list(batches)))
"""


FORK_OF_WINDOWS = """
    import os, sys
    import numpy as np, gpuload
    series = gpuload.Series(np.arange(40.0))
    loaders = [gpuload.Loader(series, gpuload.Window(1), batch_size=4, device="cpu")]
    if sys.argv[1] == "torch":
        import gpuload.torch
        loaders = [gpuload.torch.DataLoader(gpuload.torch.TimeSeriesDataset(np.arange(40.0), seq_length=1), 4)]
    batches = iter(loaders[0])
    next(batches)
    child = os.fork()
    if child == 0:
        before = loaders[0].state_dict()
        try:
            next(batches)
        except RuntimeError as error:
            assert "fork" in str(error)
            assert loaders[0].state_dict() == before
            os._exit(0)
        os._exit(3)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), len(list(batches)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("library", ["gpuload", "torch"])
def test_fork_with_batches_that_lie_ready(library: str) -> None:
    """Small batches of windows are cut together, but what is left of them is the parent's."""
    result = run(FORK_OF_WINDOWS, library, env={**os.environ, "GPULOAD_DEVICE": "cpu"})
    assert (result.returncode, result.stdout) == (0, "0 9\n"), result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork(place: Place) -> None:
    """A child is told, does not hang, ends well and may make a loader of its own; the parent goes on."""
    if place.device != "cpu":
        pytest.skip("CUDA itself does not work in a fork")
    result = run(FORK, *place)
    assert (result.returncode, result.stdout) == (0, "0 9\n"), result.stderr


INTERRUPT = """
    import os, signal, sys, threading
    import numpy as np, gpuload
    source = gpuload.ImageArray(np.zeros((4000, 96, 96, 3), np.uint8))
    loader = gpuload.Loader(source, gpuload.Augment(rotation=9), batch_size=64, engine=sys.argv[1], device=sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    next(iter(loader))  # Libraries are imported now, and kernels compiled.
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    while True:
        for batch in loader:
            pass
"""


def test_interrupt(place: Place) -> None:
    result = run(INTERRUPT, *place)
    assert "KeyboardInterrupt" in result.stderr
    assert result.returncode != 0


STOP_AND_GO = """
    import os, random, signal, sys, threading, time
    import numpy as np, gpuload
    images = np.arange(64, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 48, 48, 3), np.uint8)
    source = gpuload.ImageArray(images, labels=np.arange(64))
    options = {"batch_size": 8, "shuffle": True, "engine": sys.argv[1], "device": sys.argv[2], "framework": "numpy"}
    loader = gpuload.Loader(source, gpuload.Augment(hflip=0.5), **options)
    next(iter(loader))  # Libraries are imported now, and kernels compiled.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed(0)
    stopped = 0
    for _ in range(40):
        timer = threading.Timer(random.uniform(0.0, 0.01), os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            for _ in range(1000):
                for batch in loader:
                    pass
        except KeyboardInterrupt:
            stopped += 1
        timer.join()
        seen = []
        for images, labels in loader:
            assert (images[:, 0, 0, 0] == labels).all(), "images and labels of different samples"
            seen += labels.tolist()
        assert sorted(seen) == list(range(64))
    print(stopped)
"""


def test_interrupted_and_used_again(place: Place) -> None:
    """As in a notebook: stop, run again. Wherever the interrupt falls, images and labels stay together."""
    result = run(STOP_AND_GO, *place)
    assert result.returncode == 0, result.stderr
    # Python swallows an interrupt that falls into a finalizer; most of the 40 must have taken place.
    assert int(result.stdout) > 20


def test_closed_loaders_leave_nothing(place: Place) -> None:
    loader = gpuload.Loader(SOURCE, RANDOM, batch_size=5, framework="numpy", **place._asdict())
    assert len(list(loader)) == 5
    engine = weakref.ref(loader.upcoming.stream._engine)
    del loader
    gc.collect()
    wait_for(lambda: engine() is None)  # Threads may be at what was made ahead.
    with gpuload.Loader(SOURCE, RANDOM, batch_size=5, framework="numpy", **place._asdict()) as loader:
        batches = iter(loader)
        next(batches)
        pool = loader.pool
    with pytest.raises(RuntimeError, match="the loader was closed while it was iterated over: begin another iteration"):
        next(batches)
    assert not pool._idle
    assert len(list(loader)) == 5


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux tells them")
@pytest.mark.parametrize("ending", ["close", "exception", "forgotten"])
@pytest.mark.parametrize("kind", ["images", "windows"])
def test_threads_end_with_the_loader(place: Place, kind: str, ending: str) -> None:
    """In the middle of an epoch: with `close`, although its iterator is held; after an exception; when forgotten."""
    options = {"batch_size": 5, **place._asdict()}
    if kind == "windows":  # Such as are cut in threads.
        job = gpuload.Series(np.zeros(1000)), gpuload.Window(4, per_sample="center")
        options["engine"] = "numpy" if place.device == "cpu" else "cupy"
    else:
        job = SOURCE, RANDOM
    with gpuload.Loader(*job, **options) as loader:
        list(loader)
    before = settled()
    loader = gpuload.Loader(*job, **options)
    batches = iter(loader)
    next(batches)
    # On a GPU, images in memory and a series need no threads.
    assert tasks() > before or place.device != "cpu"
    if ending == "close":
        loader.close()
        wait_for(lambda: tasks() <= before)
    elif ending == "exception":
        del batches

        def train() -> None:
            with loader:
                for _ in loader:
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train()
        wait_for(lambda: tasks() <= before)
    else:
        del loader, batches
        gc.collect()
        wait_for(lambda: tasks() <= before)


class Held:
    """Encoded images, those from the third on only once they may be read."""

    def __init__(self, photos: Path):
        self.files = sorted(photos.rglob("[0-9].jpg"))[:12]
        self.may_be_read = threading.Event()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: list[int]) -> list[bytes]:
        if max(indices) > 1:
            self.may_be_read.wait()
        return [self.files[index].read_bytes() for index in indices]


def test_garbage_may_be_collected_in_any_thread(photos: Path) -> None:
    """Also in one that holds a lock that the loader's threads need: that of all thread pools, as within `submit`."""
    source = Held(photos)
    loader = gpuload.Loader(source, gpuload.Augment(size=(32, 32)), batch_size=2, engine="numpy", device="cpu")
    both = [iter(loader), iter(loader)]  # Their engines: one is kept for the next epoch, one is closed.
    for batches in both:
        next(batches)
    stream = weakref.ref(batches.course.stream)
    both.append(both)
    del batches, loader, both

    def someone_waits() -> bool:
        """Whether a thread of the loader has come to the lock, to hand an image to its pool."""
        return any(
            frame.f_code is concurrent.futures.ThreadPoolExecutor.submit.__code__
            for frame in sys._current_frames().values()
        )

    def collect() -> None:
        with concurrent.futures.thread._global_shutdown_lock:
            source.may_be_read.set()
            wait_for(someone_waits)
            gc.collect()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    wait_for(lambda: stream() is None)


EXIT = """
    import sys
    import numpy as np, gpuload
    source = gpuload.ImageArray(np.zeros((40, 32, 32, 3), np.uint8))
    loaders = [
        gpuload.Loader(source, gpuload.Augment(shear=5), batch_size=4, engine=sys.argv[1], device=sys.argv[2])
        for _ in range(3)
    ]
    batches = [iter(loader) for loader in loaders]
    held = [next(b) for b in batches]
    loaders.append(batches)  # and a cycle
    batches.append(loaders)
"""


def test_exit_in_the_middle(place: Place) -> None:
    result = run(EXIT, *place)
    assert (result.returncode, result.stderr) == (0, "")


def test_import_brings_no_framework() -> None:
    heavy = ["torch", "tensorflow", "keras", "jax", "cupy", "nvidia.dali", "pandas", "typer", "rich"]
    result = run(f"import sys, gpuload; print([m for m in {heavy} if m in sys.modules])")
    assert result.stdout == "[]\n", result.stderr


def test_steps_read_no_file() -> None:
    """The plan of an epoch can be had without its pixels."""
    source = gpuload.ImageList([f"{n}.jpg" for n in range(9)])
    loader = gpuload.Loader(source, gpuload.Augment(size=(8, 8), shear=9), batch_size=4, shuffle=True, device="cpu")
    steps = list(loader.steps(epoch=5))
    assert sorted(itertools.chain.from_iterable(step.indices for step in steps)) == list(range(9))


def joined(batches) -> list[np.ndarray]:
    return [np.asarray(batch[0]) for batch in batches]


SERIES = gpuload.Series(np.arange(60.0), targets=np.arange(60))


@pytest.mark.parametrize("kind", ["images", "files", "windows"])
@pytest.mark.parametrize("taken", [0, 1, 2, "all"])
def test_a_loader_pickles_with_its_place(photos: Path, kind: str, taken: int | str) -> None:
    """What is left of the epoch, or the next one, is the same in the copy; its threads are its own."""
    source, transform = {
        "images": (gpuload.ImageArray(np.arange(7 * 48, dtype=np.uint8).reshape(7, 4, 4, 3), np.arange(7)), None),
        "files": (gpuload.ImageFolder(photos), gpuload.Augment(size=(8, 8), rotation=9)),
        "windows": (SERIES, gpuload.Window(5, jitter=0.5)),
    }[kind]
    transform = transform or gpuload.Augment(hflip=0.5)
    with gpuload.Loader(source, transform, batch_size=3, shuffle=True, device="cpu", framework="numpy") as loader:
        batches = iter(loader)
        list(itertools.islice(batches, None if taken == "all" else taken))
        data = pickle.dumps(loader)
        rest = joined(batches) or joined(loader)
        with pickle.loads(data) as copy:
            assert (copy.seed, copy.arguments["seed"], len(copy)) == (loader.seed, None, len(loader))
            for one, other in zip(joined(copy), rest, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_loader_that_cannot_be_pickled_says_why() -> None:
    transform = gpuload.Augment(function=lambda image: image)
    loader = gpuload.Loader(gpuload.ImageArray(np.zeros((2, 4, 4, 3), np.uint8)), transform, batch_size=1, device="cpu")
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(loader)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"drop_last": True}, "Loader has no argument 'drop_last': pass last_batch='drop'"),
        ({"num_workers": 8}, "Loader has no argument 'num_workers': leave it out: batches are made by threads"),
        ({"cache_limit": 5}, r"'cache_limit': pass cache=gpuload.Cache\(limit=SIZE\)"),
        ({"shufle": True}, r"Loader has no argument 'shufle': did you mean 'shuffle'\?"),
        ({"nonsense": 1}, r"Loader has no argument 'nonsense': see help\(gpuload.Loader\)"),
    ],
)
def test_unknown_arguments_are_answered(arguments: dict, answer: str) -> None:
    with pytest.raises(TypeError, match=answer):
        gpuload.Loader(SERIES, gpuload.Window(5), batch_size=2, **arguments)


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda: gpuload.Augment(horizontal_flip=True), "Augment has no argument 'horizontal_flip': pass hflip=0.5"),
        (lambda: gpuload.Augment(horisontal_flip=True), "Augment has no argument 'horisontal_flip': pass hflip=0.5"),
        (lambda: gpuload.Window(5, sampling_rate=2), "Window has no argument 'sampling_rate': pass dilation=ROWS"),
        (lambda: gpuload.Cache(cache_limit=2), "Cache has no argument 'cache_limit': pass limit=SIZE"),
        (lambda: gpuload.Errors(errors_log="a"), "Errors has no argument 'errors_log': pass log=PATH"),
    ],
)
def test_options_answer_too(make, answer: str) -> None:
    with pytest.raises(TypeError, match=answer):
        make()


def test_words_of_other_libraries_for_values() -> None:
    with pytest.raises(ValueError, match=r"device must be .*, not 'gpu': pass device='cuda'"):
        gpuload.Loader(SERIES, gpuload.Window(5), batch_size=2, device="gpu")
    with pytest.raises(ValueError, match=r"framework must be one of .*, not 'pytorch': pass framework='torch'"):
        gpuload.Loader(SERIES, gpuload.Window(5), batch_size=2, device="cpu", framework="pytorch")


def test_devices_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    with gpuload.Loader(SERIES, gpuload.Window(5), batch_size=2, device=torch.device("cpu")) as loader:
        assert loader.device == "cpu"


def test_numpys_integers() -> None:
    """A state of them is plain JSON."""
    loader = gpuload.Loader(SERIES, gpuload.Window(5), batch_size=np.int64(4), seed=np.int32(3), device="cpu")
    assert json.loads(json.dumps(loader.state_dict()))["seed"] == 3
