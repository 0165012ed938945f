"""Where a loader stands, going on there, and parts of an epoch for several ranks."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuload
from gpuload.plan.order import Order
from tests.conftest import THREADS, Place

SERIES = gpuload.Series(np.arange(300.0))
RANDOM = gpuload.Augment(size=(24, 24), rotation=20, zoom=0.3, hflip=0.5, brightness=(0.5, 1.5))


def windows(size: int = 300, **options) -> gpuload.Loader:
    """Windows of one step, whose value is the sample's number."""
    given = {"batch_size": 4, "shuffle": True, "seed": 1, "device": "cpu", **options}
    return gpuload.Loader(gpuload.Series(np.arange(size)), gpuload.Window(1), **given)


def taken(batches, count: int | None = None) -> list[list[int]]:
    """The samples of so many batches, or of all."""
    found = []
    while count is None or len(found) < count:
        batch = next(batches, None)
        if batch is None:
            break
        found.append(batch[:, 0].tolist())
    return found


last_batches = st.sampled_from(["keep", "drop", "pad"])


@st.composite
def shards(draw) -> tuple[int, int, int, str]:
    """Ranks, samples of one in a batch, samples, and what becomes of the last batch; such as go together."""
    count = draw(st.sampled_from([1, 2, 3, 4, 8]), "ranks")
    batch = draw(st.integers(1, 5), "batch")
    last = draw(last_batches, "last batch")
    least = count * batch if last == "drop" else count
    size = draw(st.integers(least, 150), "size")
    if last == "keep" and batch == 1:
        size = max(1, size // count) * count
    return count, batch, size, last


def coverage(samples: list[int], size: int, last_batch: str, global_batch: int) -> None:
    """Each sample exactly once; but at most once where the last batch is dropped, and again where it is filled up."""
    times = np.bincount(samples, minlength=size)
    if last_batch == "keep":
        assert (times == 1).all()
    elif last_batch == "drop":
        assert times.max(initial=0) <= 1
        assert size - times.sum() < global_batch
    else:
        assert times.min() >= 1
        assert times.sum() - size < global_batch


@settings(max_examples=300)
@given(shape=shards(), epoch=st.integers(0, 3))
def test_ranks_share_an_epoch_out_evenly(shape, epoch):
    count, batch, size, last = shape
    options = {"size": size, "batch_size": batch * count, "shuffle": True, "seed": 9, "last_batch": last}
    ranks = [Order(shard=(rank, count), **options) for rank in range(count)]
    parts = [[indices for _, indices in rank.batches(epoch)] for rank in ranks]
    assert {len(part) for part in parts} == {len(ranks[0])}
    assert all(1 <= len(indices) <= batch for part in parts for indices in part)
    assert max(sum(map(len, part)) for part in parts) - min(sum(map(len, part)) for part in parts) <= 1
    samples = np.concatenate([indices for part in parts for indices in part]).tolist()
    coverage(samples, size, last, batch * count)
    assert ranks[0].repeats == max(0, len(samples) - size)


@settings(max_examples=200)
@given(
    sessions=st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 6)), max_size=5),
    last=last_batches,
    batch=st.integers(2, 5),
    size=st.integers(40, 150),
    epoch=st.integers(0, 2),
)
def test_an_epoch_goes_on_with_other_numbers_of_ranks(sessions, last, batch, size, epoch):
    """Broken off after some batches and resumed, each time with another number of ranks; then a whole epoch."""
    options = {"size": size, "batch_size": batch, "last_batch": last}
    samples: list[int] = []
    whole = windows(**options)
    whole.set_epoch(epoch)
    state = whole.state_dict()
    for count, stop in [*sessions, (1, None)]:
        left = size - state["seen"]
        ranks = [windows(**options, shard=(rank, count)) for rank in range(count)]
        if last == "keep" and 0 < left < count:
            with pytest.raises(ValueError, match=f"cannot part {left} samples among {count} ranks"):
                ranks[0].load_state_dict(state)
            continue
        for rank in ranks:
            rank.load_state_dict(state)
        parts = [taken(iter(rank), stop) for rank in ranks]
        assert len({len(part) for part in parts}) == 1
        samples += [sample for part in parts for one in part for sample in one]
        states = [rank.state_dict() for rank in ranks]
        assert all(found == states[0] for found in states)
        state = json.loads(json.dumps(states[0]))
        if state["epoch"] > epoch:
            break
    coverage(samples, size, last, batch * 8)
    assert (state["epoch"], state["seen"]) == (epoch + 1, 0)
    resumed = windows(**options)
    resumed.load_state_dict(state)
    whole.set_epoch(epoch + 1)
    assert taken(iter(resumed)) == taken(iter(whole))


@settings(max_examples=60)
@given(stops=st.lists(st.integers(0, 90), min_size=1, max_size=4), together=st.booleans())
def test_what_follows_is_what_would_have_followed(stops, together):
    """Windows come several batches in one piece, of which a state counts those that were taken."""
    whole = windows()
    expected = [taken(iter(whole)) for _ in range(6)]
    found: list[list[int]] = []
    loader = windows()
    for stop in stops:
        batches = iter(loader)
        found += taken(batches, stop)
        state = loader.state_dict()
        assert len(json.dumps(state)) < 1000
        loader = windows(prefetch=0) if together else windows()
        loader.load_state_dict(state)
    for _ in range(2):
        found += taken(iter(loader))
    assert found == [batch for epoch in expected for batch in epoch][: len(found)]
    assert len(found) >= sum(stops)


@pytest.mark.parametrize("framework", ["numpy", "torch", "tensorflow", "jax", "dlpack"])
def test_pixels_are_those_of_a_run_that_was_never_broken_off(photos: Path, place: Place, framework: str):
    source = gpuload.ImageFolder(photos)
    options = {"batch_size": 3, "shuffle": True, "seed": 3, "framework": framework}
    options |= {"threads": THREADS, **place._asdict()}

    def pixels(batch) -> np.ndarray:
        images = batch[0]
        return np.from_dlpack(images).copy() if framework == "dlpack" and place.device == "cpu" else np.asarray(images)

    if place.device != "cpu":
        options["framework"] = "numpy"
    with gpuload.Loader(source, RANDOM, **options) as whole:
        expected = [pixels(batch) for _ in range(2) for batch in whole]
    found = []
    first = gpuload.Loader(source, RANDOM, **options)
    batches = iter(first)
    for _ in range(3):
        found.append(pixels(next(batches)))
    state = json.loads(json.dumps(first.state_dict()))
    first.close()
    with gpuload.Loader(source, RANDOM, **options) as second:
        second.load_state_dict(state)
        found += [pixels(batch) for _ in range(2) for batch in second]
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_skipping_reads_nothing(tmp_path: Path, place: Place):
    """What lies before the position is not there any more."""
    images = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)
    from PIL import Image

    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    source = gpuload.ImageList([f"{number}.png" for number in range(12)], labels=np.arange(12), root=tmp_path)
    for number in range(8, 12):
        (tmp_path / f"{number - 8}.png").rename(tmp_path / f"{number}.png")
    loader = gpuload.Loader(source, gpuload.Augment(size=(8, 8)), batch_size=2, **place._asdict())
    loader.load_state_dict({**loader.state_dict(), "seen": 8})
    with loader:
        assert [labels.tolist() for _, labels in loader] == [[8, 9], [10, 11]]


def test_a_state_before_between_and_at_the_end_of_epochs():
    loader = windows(10)
    assert (loader.state_dict()["epoch"], loader.state_dict()["seen"]) == (0, 0)
    batches = iter(loader)
    assert loader.state_dict()["seen"] == 0  # Nothing was taken: the epoch is not settled.
    taken(batches, 3)
    at_the_end = loader.state_dict()
    assert (at_the_end["epoch"], at_the_end["seen"]) == (0, 10)
    assert next(batches, None) is None
    after = loader.state_dict()
    assert (after["epoch"], after["seen"]) == (1, 0)

    second = taken(iter(loader))
    for state, rest in ((at_the_end, []), (after, second)):
        again = windows(10)
        again.load_state_dict(state)
        assert taken(iter(again)) == rest
    # The program that counts its epochs goes on with the one after the empty rest.
    again.load_state_dict(at_the_end)
    assert [taken(iter(again)), taken(iter(again))] == [[], second]


def test_an_iterator_says_how_much_is_left():
    loader = windows(10)
    loader.load_state_dict({**loader.state_dict(), "seen": 4})
    assert len(loader) == 3
    batches = iter(loader)
    assert len(batches) == 2
    next(batches)
    assert len(batches) == 1


def test_set_epoch_keeps_the_place_in_the_epoch_that_was_loaded_and_in_no_other():
    """Programs for PyTorch call it at the start of every epoch, of the resumed one too."""
    state = {**windows(10).state_dict(), "epoch": 2, "seen": 8}
    loader = windows(10)
    loader.load_state_dict(state)
    loader.set_epoch(2)
    assert [len(batch) for batch in taken(iter(loader))] == [2]
    loader.load_state_dict(state)
    loader.sampler.set_epoch(3)
    assert sum(map(len, taken(iter(loader)))) == 10


def test_a_loader_that_was_copied_stands_where_it_stood():
    loader = windows(10)
    loader.load_state_dict({**loader.state_dict(), "seen": 8})
    assert [len(batch) for batch in taken(iter(loader.replace(prefetch=1)))] == [2]


def test_the_iteration_that_began_last_counts():
    loader = windows(20)
    first, second = iter(loader), iter(loader)
    taken(first, 2)
    taken(second, 1)
    taken(first, 1)
    assert (loader.state_dict()["epoch"], loader.state_dict()["seen"]) == (1, 4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("method", ["plan", "submit", "take", "batches"])
@pytest.mark.parametrize("kind", ["images", "windows"])
def test_an_iteration_goes_on_after_an_interrupt(kind: str, method: str, error: type[BaseException]):
    """With the batches that were not delivered; what was is counted, and nothing else."""
    loader = windows(23, prefetch=1)
    if kind == "images":
        source = gpuload.ImageArray(np.arange(23, dtype=np.uint8).reshape(-1, 1, 1, 1), labels=np.arange(23))
        options = {"batch_size": 4, "shuffle": True, "seed": 1, "device": "cpu", "framework": "numpy", "prefetch": 1}
        loader = gpuload.Loader(source, gpuload.Augment(layout="HWC"), **options)
    pool, whole = loader.pool, [samples_of(batch) for batch in loader.batches(0)]
    following = samples_of(next(loader.batches(1)))
    pool.together = 2  # Of windows, batches in a step.
    original = getattr(pool, method)
    countdown = -1  # Calls until one fails.

    def failing(*arguments):
        found = original(*arguments)
        return map(counted, found) if method == "plan" else counted(found)

    def counted(found):
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise error
        return found

    setattr(pool, method, failing)
    for calls in range(1, 8):
        loader.load_state_dict({**loader.state_dict(), "epoch": 0, "seen": 0})
        countdown = calls
        batches, found, lost = iter(loader), [], 0
        while True:
            before = loader.state_dict()["seen"]
            try:
                found.append(samples_of(next(batches)))
            except StopIteration:
                break
            except error:
                lost += loader.state_dict()["seen"] - before
            assert loader.state_dict()["seen"] in (sum(map(len, found)) + lost, 0)
        # What was made, and failed, is lost as a batch with a bad sample is.
        assert (lost > 0) == (error is MemoryError and method in ("take", "batches") and countdown <= 0)
        assert sum(map(len, found)) + lost == 23
        assert [batch for batch in whole if batch in found] == found
        countdown = 0
        assert samples_of(next(iter(loader))) == following


def samples_of(batch) -> list[int]:
    return (batch[1] if isinstance(batch, tuple) else batch[:, 0]).tolist()


def test_an_iteration_that_was_interrupted_stays_closed():
    loader = windows(20)
    batches = iter(loader)
    loader.pool.together = 1
    taken(batches, 1)
    loader.pool.take = interrupted
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    del loader.pool.take
    loader.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the loader was closed while it was iterated over"):
            next(batches)
        assert loader.state_dict()["seen"] == 4


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_drawn_seed_is_taken_from_the_state():
    loader = windows(seed=None)
    batches = iter(loader)
    taken(batches, 10)
    again = windows(seed=None)
    again.load_state_dict(loader.state_dict())
    assert taken(iter(again)) == taken(batches)
    assert again.seed == loader.seed
    assert again.state_dict() == {**loader.state_dict(), "epoch": 1, "seen": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "seed was 1, and is 2"),
        ({"batch_size": 5}, "batch_size was 4, and is 5"),
        ({"shuffle": False}, "shuffle was True, and is False"),
        ({"last_batch": "drop"}, "last_batch was keep, and is drop"),
        ({"size": 301}, "samples was 300, and is 301"),
    ],
)
def test_a_state_of_another_loader_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^state is of another loader: .*{message}.*Make the loader as it was"):
        windows(**changes).load_state_dict(windows().state_dict())


def test_a_state_of_another_transform_or_source_is_refused(photos: Path):
    source = gpuload.ImageFolder(photos)
    loader = gpuload.Loader(source, RANDOM, batch_size=4, seed=0, device="cpu")
    state = loader.state_dict()
    other = loader.replace(transform=RANDOM.replace(hflip=0.25, rotation=0))
    with pytest.raises(ValueError, match=r"transform\.hflip was 0\.5, and is 0\.25"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"transform\.rotation was 20, and is the default"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"source was [0-9a-f]{16}, and is [0-9a-f]{16}"):
        loader.replace(source=source.take(np.arange(len(source))[::-1])).load_state_dict(state)
    relabelled = source.take(slice(None))
    relabelled.labels = relabelled.labels[::-1]
    with pytest.raises(ValueError, match="source was"):
        loader.replace(source=relabelled).load_state_dict(state)
    with pytest.raises(ValueError, match="samples was 23, and is 300"):
        windows().load_state_dict(state)
    loader.load_state_dict(state)


def test_a_source_may_move(photos: Path, tmp_path: Path):
    """The names under the root are what counts."""
    import shutil

    moved = shutil.copytree(photos, tmp_path / "moved")
    options = {"batch_size": 4, "seed": 0, "device": "cpu"}
    state = gpuload.Loader(gpuload.ImageFolder(photos), RANDOM, **options).state_dict()
    gpuload.Loader(gpuload.ImageFolder(moved), RANDOM, **options).load_state_dict(state)


def test_values_in_memory_are_told_apart():
    images = np.zeros((200, 64, 64, 3), np.uint8)
    options = {"batch_size": 4, "seed": 0, "device": "cpu"}
    state = gpuload.Loader(gpuload.ImageArray(images), gpuload.Augment(), **options).state_dict()
    with pytest.raises(ValueError, match="source was"):
        gpuload.Loader(gpuload.ImageArray(images + 1), gpuload.Augment(), **options).load_state_dict(state)
    changed = SERIES.values.copy()
    changed[17] += 1
    loaders = [gpuload.Loader(gpuload.Series(v), gpuload.Window(5), **options) for v in (SERIES.values, changed)]
    with pytest.raises(ValueError, match="source was"):
        loaders[1].load_state_dict(loaders[0].state_dict())


@pytest.mark.parametrize("state", [None, {}, {"epoch": 1}, [1], {"version": 1}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match=r"^state must be what state_dict"):
        windows().load_state_dict(state)


def test_a_state_of_another_version_is_refused():
    with pytest.raises(ValueError, match="state must be of version 1, not 2"):
        windows().load_state_dict({**windows().state_dict(), "version": 2})


def test_long_options_leave_the_state_small():
    def recolour(image):
        return image

    whitening = np.eye(48, dtype=np.float32)
    transform = gpuload.Augment(
        size=(4, 4),
        function=recolour,
        zca=whitening,
        mean=(0.123456789, 0.23456789, 0.3456789),
        crop=gpuload.RandomResizedCrop(scale=(0.1234567, 0.9876543), ratio=(0.7654321, 1.3456789)),
        rotation=(-12.3456789, 23.456789),
        width_shift=0.123456789,
        height_shift=0.123456789,
        shear=(-1.23456789, 2.3456789),
        zoom=(0.123456789, 1.23456789),
        hflip=0.123456789,
        vflip=0.123456789,
        channel_shift=12.3456789,
        brightness=(0.123456789, 1.23456789),
        fill_mode="constant",
        fill_value=123.456789,
        interpolation="lanczos",
        layout="HWC",
        rescale=1 / 255,
    )
    source = gpuload.ImageList(["a.jpg", "b.jpg"])
    state = gpuload.Loader(source, transform, batch_size=2, seed=2**64 - 1, device="cpu").state_dict()
    assert len(json.dumps(state)) < 1000
    other = transform.replace(zca=whitening * 2)
    with pytest.raises(ValueError, match=r"transform\.zca was float32 \[48, 48\] [0-9a-f]{12}, and is"):
        gpuload.Loader(source, other, batch_size=2, seed=2**64 - 1, device="cpu").load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (0, 2), "seed": None}, "seed must be given with 2 ranks"),
        ({"shard": (0, 2), "batch_size": 1, "size": 5}, "cannot part 5 samples among 2 ranks in batches of 1 each"),
        ({"shard": (0, 8), "size": 5}, "cannot part 5 samples among 8 ranks"),
        ({"shard": (2, 2)}, "shard must be 'auto', None or integers"),
        ({"on_error": "skip"}, "on_error is for images that are read from files, not for a Series"),
        ({"errors": gpuload.Errors(timeout=3.0)}, "errors is for images that are read from files, not for a Series"),
    ],
)
def test_what_ranks_cannot_share_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        windows(**options)


def test_ranks_see_what_one_rank_would_see(photos: Path, place: Place):
    """The same samples in a batch, augmented alike."""
    source = gpuload.ImageFolder(photos)
    options = {"shuffle": True, "seed": 3, "threads": THREADS, "framework": "numpy", **place._asdict()}
    whole = gpuload.Loader(source, RANDOM, batch_size=6, **options)
    parts = [gpuload.Loader(source, RANDOM, batch_size=3, shard=(rank, 2), **options) for rank in (0, 1)]
    for (images, labels), *ranks in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([part[1] for part in ranks]), labels)
        np.testing.assert_array_equal(np.concatenate([part[0] for part in ranks]), images)


# States of version 0.1.0, as it was before loaders had courses, and the sums of the batches that were left.
EARLIER = {
    "images": (
        {"version": 1, "epoch": 0, "seen": 4, "seed": 7, "samples": 7, "batch_size": 2, "shuffle": True}
        | {"last_batch": "keep", "source": "4bd234b429249569", "transform": "rotation=20; hflip=0.5"}
        | {"cache_size": None},
        [18618.338, 13369.0],
    ),
    "windows": (
        {"version": 1, "epoch": 0, "seen": 8, "seed": 3, "samples": 36, "batch_size": 4, "shuffle": True}
        | {"last_batch": "keep", "source": "1ad51ba087e7b435", "cache_size": None}
        | {"transform": "length=5; per_sample='standardize'; jitter=0.1"},
        [95.054, 95.201, 99.024, 76.298, 80.676, 85.293, 42.868],
    ),
}


@pytest.mark.parametrize("kind", EARLIER)
def test_states_of_an_earlier_version(kind):
    """Same seed, same batches: they load, and what was left comes."""
    state, sums = EARLIER[kind]
    if kind == "images":
        pixels = np.arange(7 * 6 * 5 * 3, dtype=np.uint8).reshape(7, 6, 5, 3)
        source, transform = gpuload.ImageArray(pixels, np.arange(7)), gpuload.Augment(hflip=0.5, rotation=20)
    else:
        source = gpuload.Series(np.arange(40.0), targets=np.arange(40))
        transform = gpuload.Window(5, jitter=0.1, per_sample="standardize")
    with gpuload.Loader(source, transform, batch_size=state["batch_size"], shuffle=True, device="cpu") as loader:
        loader.load_state_dict(state)
        found = [sum(np.asarray(part, np.float64).sum() for part in batch) for batch in loader]
    np.testing.assert_allclose(found, sums, atol=0.01)
