"""What becomes of samples that cannot be read: raised, skipped, replaced, listed, counted."""

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gpuload
from tests.conftest import THREADS, Place

RANDOM = gpuload.Augment(size=(20, 20), rotation=15, hflip=0.5, brightness=(0.7, 1.3))
BAD = [2, 5, 6, 17]
COUNT = 24


@pytest.fixture
def files(photos: Path, tmp_path: Path) -> list[Path]:
    """24 photographs, which a test may break."""
    found = sorted(photos.rglob("*.jpg"))
    return [Path(shutil.copy(found[n % len(found)], tmp_path / f"{n}.jpg")) for n in range(COUNT)]


@pytest.fixture
def broken(files: list[Path]) -> list[Path]:
    """The same, of which four are bad: no image, cut short, empty, gone."""
    good = [Path(shutil.copy(files[n], files[n].with_suffix(".whole"))) for n in BAD]
    assert all(path.exists() for path in good)
    files[2].write_bytes(b"no image")
    files[5].write_bytes(files[5].read_bytes()[:400])
    files[6].write_bytes(b"")
    files[17].unlink()
    return files


def source(files: list[Path]) -> gpuload.ImageList:
    """Labels are the samples' numbers."""
    return gpuload.ImageList(files, labels=np.arange(len(files)))


def loader(files: list[Path], place: Place, **options) -> gpuload.Loader:
    given = {"batch_size": 5, "shuffle": True, "seed": 4, "threads": THREADS, "framework": "numpy"}
    given |= {**place._asdict(), **options}
    return gpuload.Loader(source(files), RANDOM, **given)


def clean(files: list[Path], place: Place, tmp_path: Path, **options) -> list[tuple[np.ndarray, np.ndarray]]:
    """The batches of two epochs, had the files not been broken."""
    whole = [path.with_suffix(".whole") if number in BAD else path for number, path in enumerate(files)]
    with loader(whole, place, **options) as batches:
        return [batch for _ in range(2) for batch in batches]


def epochs(batches: gpuload.Loader, count: int = 2) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with batches:
        yield from [batch for _ in range(count) for batch in batches]


def test_bad_samples_are_left_out(broken, place, tmp_path):
    """And all others are what they would have been, in the order in which they would have come."""
    batches = loader(broken, place, on_error="skip")
    expected = clean(broken, place, tmp_path)
    found = list(epochs(batches))
    assert len(found) == len(expected)
    for (images, labels), (whole, all_labels) in zip(found, expected, strict=True):
        good = ~np.isin(all_labels, BAD)
        np.testing.assert_array_equal(labels, all_labels[good])
        np.testing.assert_array_equal(images, whole[good])
    assert sorted(bad.index for bad in batches.errors) == BAD
    assert {bad.path for bad in batches.errors} == {str(broken[n]) for n in BAD}


def test_bad_samples_are_replaced(broken, place, tmp_path):
    """By others, drawn as the bad one would have been; batches keep their shape."""
    batches = loader(broken, place, on_error="replace")
    expected = clean(broken, place, tmp_path)
    found = list(epochs(batches))
    for number, ((images, labels), (whole, all_labels)) in enumerate(zip(found, expected, strict=True)):
        bad = np.isin(all_labels, BAD)
        assert images.shape == whole.shape
        assert not np.isin(labels, BAD).any()
        np.testing.assert_array_equal(labels[~bad], all_labels[~bad])
        np.testing.assert_array_equal(images[~bad], whole[~bad])
        # In the place of the bad one, the other one's file gives these very pixels.
        files = list(broken)
        for wanted, got in zip(all_labels[bad], labels[bad], strict=True):
            files[wanted] = broken[got]
        if bad.any():
            files = [files[n] if n in all_labels else broken[0] for n in range(COUNT)]
            epoch, position = divmod(number, len(batches))
            same = list(loader(files, place).batches(epoch))[position]
            np.testing.assert_array_equal(images, same[0])
    assert sorted(bad.index for bad in batches.errors) == BAD


def test_what_takes_a_bad_samples_place_is_settled_by_the_seed(broken, place):
    """Not by which samples are known to be bad already."""
    first = [labels.tolist() for _, labels in epochs(loader(broken, place, on_error="replace"))]
    again = loader(broken, place, on_error="replace", prefetch=0)
    again.set_epoch(1)
    with again:
        second = [labels.tolist() for _, labels in again]
        again.set_epoch(0)
        assert [labels.tolist() for _, labels in again] + second == first
    other = [labels.tolist() for _, labels in epochs(loader(broken, place, on_error="replace", seed=5))]
    assert other != first


def test_a_run_that_is_resumed_replaces_alike(broken, place):
    whole = [labels.tolist() for _, labels in epochs(loader(broken, place, on_error="replace"), 1)]
    found = []
    state = loader(broken, place, on_error="replace").state_dict()
    for _ in whole:
        with loader(broken, place, on_error="replace") as batches:
            batches.load_state_dict(state)
            found.append(next(iter(batches))[1].tolist())
            state = batches.state_dict()
    assert found == whole


def test_ranks_stay_in_step(broken, place):
    ranks = [loader(broken, place, on_error="replace", batch_size=3, shard=(rank, 2)) for rank in (0, 1)]
    parts = [list(epochs(rank, 1)) for rank in ranks]
    assert [[len(labels) for _, labels in part] for part in parts] == [[3, 3, 3, 3]] * 2
    labels = np.concatenate([labels for part in parts for _, labels in part])
    assert set(range(COUNT)) - set(BAD) <= set(labels.tolist())
    with pytest.raises(ValueError, match="on_error='skip' would leave 2 ranks with batches of different sizes"):
        loader(broken, place, on_error="skip", shard=(0, 2))


def test_a_batch_of_which_nothing_is_left_is_left_out(files, place):
    for number in range(5, 10):
        files[number].write_bytes(b"no image")
    batches = loader(files, place, on_error="skip", shuffle=False)
    with batches:
        for _ in range(2):  # Found bad; and known to be.
            iterator = iter(batches)
            assert len(next(iterator)[1]) == 5
            assert len(iterator) == 4
            assert [labels.tolist()[0] for _, labels in iterator] == [10, 15, 20]
            assert batches.state_dict()["seen"] == 0
    assert batches.stats()["errors"] == 5


@pytest.mark.parametrize("on_error", ["skip", "replace"])
def test_where_nothing_can_be_read_that_is_said(files, place, on_error):
    for path in files:
        path.write_bytes(b"no image")
    with loader(files, place, on_error=on_error) as batches, pytest.raises(gpuload.TooManyErrors) as caught:
        list(batches)
    assert "none of the 24 samples can be read" in str(caught.value)
    assert len(batches.errors) == COUNT


def test_each_is_told_once(broken, place, caplog, tmp_path):
    log = tmp_path / "errors.jsonl"
    with caplog.at_level(logging.WARNING, "gpuload"):
        batches = loader(broken, place, errors=gpuload.Errors(on_error="skip", log=log))
        assert log.read_text() == ""
        list(epochs(batches, 3))
    told = [record.getMessage() for record in caplog.records if "cannot read" in record.getMessage()]
    assert len(told) == len(BAD)
    for bad, message in zip(batches.errors, told, strict=True):
        assert repr(bad.path) in message
        assert bad.reason in message
        assert f"(sample {bad.index})" in message
        assert "its batch is shorter" in message
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["index"], line["path"], line["reason"]) for line in lines] == [
        (bad.index, bad.path, bad.reason) for bad in batches.errors
    ]
    assert all(line["on_error"] == "skip" and line["time"].endswith("+00:00") for line in lines)
    # Another run adds to it.
    list(epochs(loader(broken, place, errors=gpuload.Errors(on_error="replace", log=log)), 1))
    assert len(log.read_text().splitlines()) == 2 * len(BAD)


def test_a_log_that_can_no_longer_be_written_ends_no_training(broken, place, caplog, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    batches = loader(broken, place, errors=gpuload.Errors(on_error="skip", log=folder / "errors.jsonl"))
    shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING, "gpuload"):
        assert sum(len(labels) for _, labels in epochs(batches, 1)) == COUNT - len(BAD)
    assert "cannot be written: [Errno 2]" in caplog.text
    with pytest.raises(FileNotFoundError):
        loader(broken, place, errors=gpuload.Errors(log=folder / "errors.jsonl"))


@pytest.mark.parametrize(("limit", "most"), [(3, 3), (0, 0), (0.1, 2), (0.01, 0)])
@pytest.mark.parametrize("on_error", ["skip", "replace"])
def test_too_many_bad_samples_end_it(broken, place, limit, most, on_error):
    batches = loader(broken, place, errors=gpuload.Errors(on_error=on_error, max_errors=limit))
    with batches, pytest.raises(gpuload.TooManyErrors, match=f"max_errors={limit} allows") as caught:
        list(batches)
    assert len(batches.errors) > most
    assert f"of 24, but {len(batches.errors)} were found" in str(caught.value)
    assert "Repair or remove" in str(caught.value)


@pytest.mark.parametrize("limit", [4, 0.2, None])
def test_as_many_as_are_allowed_do_not(broken, place, limit):
    batches = loader(broken, place, errors=gpuload.Errors(on_error="replace", max_errors=limit))
    assert sum(len(labels) for _, labels in epochs(batches)) == 2 * COUNT


def test_raised_errors_count_too(broken, place):
    """For a program that catches them and goes on."""
    with loader(broken, place, errors=gpuload.Errors(max_errors=3), shuffle=False, batch_size=1) as batches:
        iterator, caught, good = iter(batches), 0, 0
        for number in range(17):
            if number in BAD:
                with pytest.raises(gpuload.SampleError):
                    next(iterator)
                caught += 1
            else:
                next(iterator)
                good += 1
        with pytest.raises(gpuload.TooManyErrors):
            next(iterator)
        assert (good, caught) == (14, 3)
        assert [bad.index for bad in batches.errors] == BAD
        assert next(iterator)[1].tolist() == [18]


def test_a_file_may_go_bad_between_epochs(files, place):
    with loader(files, place, on_error="skip") as batches:
        assert sum(len(labels) for _, labels in batches) == COUNT
        files[7].unlink()
        files[8].write_bytes(b"overwritten")
        batches.close()  # What was made ahead of the next epoch.
        assert sum(len(labels) for _, labels in batches) == COUNT - 2
    assert sorted(bad.index for bad in batches.errors) == [7, 8]


def test_several_threads_find_each_once(broken, place):
    batches = loader(broken, place, on_error="replace")
    seen: list[int] = []

    def consume() -> None:
        seen.append(sum(len(labels) for _, labels in batches))

    threads = [threading.Thread(target=consume) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batches.close()
    assert seen == [COUNT] * 3
    assert sorted(bad.index for bad in batches.errors) == BAD


def test_images_in_memory_have_no_bad_samples(place):
    source = gpuload.ImageArray(np.zeros((6, 8, 8, 3), np.uint8))
    with gpuload.Loader(source, gpuload.Augment(), batch_size=4, on_error="replace", **place._asdict()) as batches:
        assert [len(images) for images in batches] == [4, 2]
    assert batches.errors == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error must be one of raise, skip, replace, not 'ignore'"),
        ({"max_errors": -1}, "max_errors must be a number of samples, or a share below 1, not -1"),
        ({"max_errors": True}, "max_errors must be a number of samples"),
        ({"max_errors": "3"}, "max_errors must be a number of samples"),
        ({"max_errors": 1.5}, r"max_errors as a float is a share of the data set, below 1, not 1\.5: pass a whole"),
        ({"max_errors": float("nan")}, "max_errors as a float is a share"),
        ({"max_pixels": 0}, "max_pixels must be an integer of at least 1, not 0"),
        ({"timeout": 0}, "timeout must be seconds above 0, or None, not 0"),
        ({"timeout": "5"}, "timeout must be seconds above 0, or None, not '5'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gpuload.Errors(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error must be one of raise, skip, replace, not 'ignore'"),
        (
            {"errors": "skip"},
            r"errors must be gpuload\.Errors\(\.\.\.\), not 'skip': for a policy alone, pass on_error=",
        ),
        ({"errors": gpuload.Errors(on_error="replace"), "on_error": "skip"}, "on_error='skip' contradicts errors="),
    ],
)
def test_loaders_refuse_too(options, message):
    with pytest.raises(ValueError, match=message):
        gpuload.Loader(gpuload.ImageList(["a.jpg"]), RANDOM, batch_size=1, device="cpu", **options)
