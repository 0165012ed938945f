"""The PyTorch door against the program that it replaces, in PyTorch's own DataLoader: batches, order, generators."""

import gc
import itertools
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext as nothing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
    random_split,
)
from torch.utils.data import DataLoader as Stock
from torch.utils.data.distributed import DistributedSampler

import gpuload
from gpuload.torch import DataLoader, TimeSeriesDataset
from gpuload.torch.dataset import as_numbers


class Original(Dataset):
    """What users write."""

    def __init__(self, data: Any, labels: Any, seq_length: int):
        self.data = data
        self.labels = labels
        self.seq_length = seq_length

    def __len__(self) -> int:
        return len(self.data) - self.seq_length + 1

    def __getitem__(self, index: int) -> Any:
        window = self.data[index : index + self.seq_length]
        return window if self.labels is None else (window, self.labels[index + self.seq_length - 1])


def same(ours: Any, theirs: Any) -> None:
    """Of the same types, dtypes and shapes, and equal to the bit."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, torch.Tensor):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=0, equal_nan=True)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            same(ours[name], theirs[name])
    else:
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)


DTYPES = ["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def array(rows: int, item: tuple[int, ...] = (), dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(rows).random((rows, *item)) * 100).astype(dtype)


class Uneven:
    """A batch sampler as users write them: batches of any length, of any kind of sequence, drawn as they are made."""

    def __init__(self, count: int, generator: torch.Generator | None, most: int):
        self.count, self.generator, self.most = count, generator, most

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[Any]:
        for number in range(7):
            size = self.most if number % 3 else 1 + number * 5 % self.most
            numbers = torch.randint(-self.count, self.count, (size,), generator=self.generator)
            yield [numbers, numbers.tolist(), numbers.numpy().astype(np.int16), tuple(numbers.tolist())][number % 4]


SAMPLERS: dict[str, Callable[[Any, int, Any], dict[str, Any]]] = {
    "sequential": lambda data, size, g: {"batch_size": size},
    "shuffle": lambda data, size, g: {"batch_size": size, "shuffle": True, "generator": g},
    "drop_last": lambda data, size, g: {"batch_size": size, "shuffle": True, "generator": g, "drop_last": True},
    "drop_last in order": lambda data, size, g: {"batch_size": size, "drop_last": True},
    "one by one": lambda data, size, g: {"batch_size": None, "shuffle": True, "generator": g},
    "one by one in order": lambda data, size, g: {"batch_size": None},
    "one by one, weighted": lambda data, size, g: {
        "batch_size": None,
        "sampler": WeightedRandomSampler(np.arange(len(data)) + 1, 9, generator=g),
    },
    "workers": lambda data, size, g: {"batch_size": size, "shuffle": True, "generator": g},
    "own generator": lambda data, size, g: {
        "batch_size": size,
        "sampler": RandomSampler(data, generator=torch.Generator().manual_seed(5)),
        "generator": g,
    },
    "replacement": lambda data, size, g: {
        "batch_size": size,
        "sampler": RandomSampler(data, replacement=True, num_samples=50, generator=g),
    },
    "fewer": lambda data, size, g: {
        "batch_size": size,
        "sampler": RandomSampler(data, num_samples=len(data) // 2 + 1, generator=g),
    },
    "more": lambda data, size, g: {
        "batch_size": size,
        "sampler": RandomSampler(data, num_samples=len(data) * 2 + 1, generator=g),
    },
    "weighted": lambda data, size, g: {
        "batch_size": size,
        "drop_last": True,
        "sampler": WeightedRandomSampler(np.arange(len(data)) + 1, 40, generator=g),
    },
    "subset": lambda data, size, g: {
        "batch_size": size,
        "sampler": SubsetRandomSampler(range(0, len(data), 2), generator=g),
    },
    "distributed": lambda data, size, g: {
        "batch_size": size,
        "sampler": DistributedSampler(data, num_replicas=3, rank=1, seed=4),
    },
    "list": lambda data, size, g: {"batch_size": size, "sampler": [0, -1, len(data) - 1, 0]},
    "array": lambda data, size, g: {"batch_size": size, "sampler": np.array([0, len(data) - 1, 0], np.uint8)},
    "tensor": lambda data, size, g: {"batch_size": size, "sampler": torch.arange(len(data)).flip(0)},
    "batch sampler": lambda data, size, g: {
        "batch_sampler": BatchSampler(RandomSampler(data, generator=g), size, drop_last=size % 2 == 0)
    },
    "batches in order": lambda data, size, g: {"batch_sampler": BatchSampler(SequentialSampler(data), size, False)},
    "uneven batches": lambda data, size, g: {"batch_sampler": Uneven(len(data), g, size)},
}


class Python(Original):
    """The original, which counts from the end too."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(range(len(self))[index])


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=12)
@given(
    rows=st.integers(6, 60),
    item=st.sampled_from([(), (3,), (2, 2)]),
    dtype=st.sampled_from(DTYPES),
    labels=st.none() | st.tuples(st.sampled_from([(), (1,), (2, 3)]), st.sampled_from(DTYPES)),
    length=st.integers(1, 6),
    size=st.integers(1, 9),
    piece=st.sampled_from([1, 500, 2**22]),
    explicit=st.booleans(),
    seed=st.integers(0, 2**40),
    broken_off=st.integers(0, 4),
)
def test_same_batches_and_generators(
    sampler: str,
    device: str,
    rows: int,
    item: tuple[int, ...],
    dtype: str,
    labels: tuple[Any, str] | None,
    length: int,
    size: int,
    piece: int,
    explicit: bool,
    seed: int,
    broken_off: int,
) -> None:
    """Epoch after epoch, one of them broken off, and what the generators draw afterwards."""
    data = array(rows, item, dtype)
    ends = None if labels is None else array(rows, *labels)
    seen = []
    for kind, loader_kind, options in (
        (Python, Stock, {}),
        (TimeSeriesDataset, DataLoader, {"device": device}),
    ):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed + 1) if explicit else None
        dataset = kind(data, ends, length)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gpuload.windows.pool.PIECE_BYTES", piece)
            loader = loader_kind(dataset, **SAMPLERS[sampler](dataset, size, generator), **options)
        if sampler == "uneven batches" or (generator and sampler in ("replacement", "more")):
            # They draw while they are read, and are read ahead, as with workers: whole epochs are the same.
            epochs = [list(loader), list(loader)]
        else:
            epochs = [list(loader), list(itertools.islice(loader, broken_off)), list(loader)]
            # As many as there are, and not a question more.
            iterator = iter(loader)
            epochs.append([next(iterator) for _ in range(len(loader))])
        states = [torch.get_rng_state(), *([generator.get_state()] if generator else [])]
        seen.append((epochs, states, len(loader)))
    same(seen[1][0], seen[0][0])
    assert all(map(torch.equal, seen[0][1], seen[1][1]))
    assert seen[0][2] == seen[1][2]


@settings(max_examples=20)
@given(
    dtype=st.sampled_from(DTYPES),
    labels=st.none() | st.tuples(st.sampled_from([(), (1,), (2, 3)]), st.sampled_from(DTYPES)),
    length=st.integers(1, 6),
    size=st.none() | st.integers(1, 9),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_dataset_in_the_stock_loader(
    dtype: str, labels: Any, length: int, size: int | None, shuffle: bool, drop_last: bool
) -> None:
    data = array(30, (3,), dtype)
    ends = None if labels is None else array(30, *labels)
    epochs = []
    for kind in (Original, TimeSeriesDataset):
        torch.manual_seed(3)
        options = {} if size is None else {"drop_last": drop_last}
        loader = Stock(kind(data, ends, length), batch_size=size, shuffle=shuffle, **options)
        epochs.append([list(loader), list(loader)])
    same(epochs[1], epochs[0])


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("labelled", [True, False])
def test_dataset_with_workers(context: str, labelled: bool, tmp_path: Path) -> None:
    """Of a file that is mapped, and mapped again in each worker."""
    np.save(tmp_path / "data.npy", array(60, (3,)))
    data = np.load(tmp_path / "data.npy", mmap_mode="r")
    labels = array(60, (), "int64") if labelled else None
    dataset = TimeSeriesDataset(data, labels, 5)
    dataset[0]  # What it keeps for cutting stays behind.
    batches = []
    for each, workers in ((Original(data.copy(), labels, 5), 0), (dataset, 2)):
        torch.manual_seed(3)
        options = {"num_workers": workers, "multiprocessing_context": context} if workers else {}
        batches.append(list(Stock(each, batch_size=8, shuffle=True, **options)))
    same(batches[1], batches[0])


def test_samples() -> None:
    data, labels = array(20, (2,)), array(20, (), "int64")
    dataset = TimeSeriesDataset(data, labels, seq_length=4)
    assert len(dataset) == 17
    assert dataset.seq_length == 4
    for index in (0, 16, -1, -17, np.int8(5), np.uint64(5), torch.tensor(5)):
        place = range(17)[int(index)]
        window, label = dataset[index]
        same((window, label), (torch.from_numpy(data[place : place + 4]), torch.tensor(labels[place + 3])))
    assert type(dataset[0]) is tuple
    same(TimeSeriesDataset(data, None, 4)[3], torch.from_numpy(data[3:7]))
    assert list(iter(dataset[0][1:])) == [labels[3]]
    assert repr(dataset) == ("TimeSeriesDataset(Series(values: float32 [20, 2], targets: int64 [20]), Window(4))")


def test_a_sample_is_a_copy() -> None:
    data = array(20)
    dataset = TimeSeriesDataset(data, None, 4)
    window = dataset[0]
    window += 1
    assert (dataset[0] == torch.from_numpy(data[:4])).all()


@pytest.mark.parametrize("index", [17, -18, 2**70])
def test_numbers_out_of_range(index: int) -> None:
    dataset = TimeSeriesDataset(array(20), None, 4)
    with pytest.raises((IndexError, TypeError), match=r"index must be from -17 to 16|indices must be whole numbers"):
        dataset[index]


def test_numbers_of_any_dtype() -> None:
    dataset = TimeSeriesDataset(array(300), None, 20)
    for dtype in (np.int8, np.uint8, np.int16, np.uint64):
        numbers = np.array([0, 120, 7], dtype)
        same(default_collate(dataset.__getitems__(numbers)), default_collate([dataset[i] for i in numbers]))
    assert as_numbers(np.array([-1, 5], np.int8), 1000).tolist() == [999, 5]
    with pytest.raises(IndexError, match="the data set has 281 windows, not 18446744073709551615"):
        dataset.__getitems__(np.array([2**64 - 1], np.uint64))
    for wrong in ([0.5, 1], np.array([1.0]), ["a"]):
        with pytest.raises(TypeError, match="indices must be whole numbers, not"):
            dataset.__getitems__(wrong)
    with pytest.raises(TypeError, match="indices must be one row of whole numbers"):
        dataset.__getitems__([[1, 2]])
    with pytest.raises(TypeError, match=r"index must be a whole number, not 1\.5"):
        dataset[1.5]


def test_own_collate_function() -> None:
    """It sees samples as it always has; what it leaves to default_collate is not the batch that was cut."""
    data, labels = array(30, (2,)), array(30, (), "int64")

    def collate(batch: Any) -> Any:
        assert [window.shape for window, _ in batch] == [torch.Size([4, 2])] * len(batch)
        windows, ends = zip(*batch, strict=True)
        assert list(ends) == [batch[number][1] for number in range(-len(batch), 0)]
        few = default_collate([sample for sample in batch if sample[1] % 2])
        return torch.stack([torch.as_tensor(window) for window in windows]), few

    def kept(batch: Any) -> Any:
        return [tuple(map(torch.as_tensor, sample)) for sample in batch[1:]]

    for function in (collate, kept):
        theirs = list(Stock(Original(data, labels, 4), 9, collate_fn=function))
        same(list(Stock(TimeSeriesDataset(data, labels, 4), 9, collate_fn=function)), theirs)
        same(list(DataLoader(TimeSeriesDataset(data, labels, 4), 9, collate_fn=function, device="cpu")), theirs)
    windows = [list(map(torch.as_tensor, batch)) for batch in Stock(Original(data, None, 4), 9, collate_fn=list)]
    same(list(DataLoader(TimeSeriesDataset(data, None, 4), 9, collate_fn=list, device="cpu")), windows)
    single = {"batch_size": None, "collate_fn": lambda sample: torch.as_tensor(sample[0]) + sample[1]}
    same(
        list(DataLoader(TimeSeriesDataset(data, labels, 4), device="cpu", **single)),
        list(Stock(Original(data, labels, 4), **single)),
    )


def test_own_collate_function_is_not_called_ahead() -> None:
    seen = []
    batches = iter(DataLoader(TimeSeriesDataset(array(30), None, 4), 9, collate_fn=seen.append, device="cpu"))
    for number in range(3):
        assert len(seen) == number
        next(batches)


OPTIONS: dict[str, dict[str, Any]] = {
    "extras": {"per_sample": "standardize", "extras": ("mask", "mean", "scale", "start")},
    "extras alone": {"extras": ["start"], "stride": 3},
    "horizon": {"horizon": 3, "dilation": 2},
    "LBC": {"horizon": 3, "layout": "LBC", "extras": ["mask"]},
    "BCL": {"horizon": 3, "layout": "BCL", "dtype": "bfloat16"},
    "panel": {"groups": np.repeat([4, 1, 7], [30, 5, 25])},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_window_options(name: str, device: str) -> None:
    """What `gpuload.Loader` delivers, as default_collate would have it, through both loaders and sample by sample."""
    data, labels = array(60, (3,)), None if name == "extras alone" else array(60, (2,))
    options = OPTIONS[name]
    dataset = TimeSeriesDataset(data, labels, 4, **options)
    groups = {"groups": options["groups"]} if "groups" in options else {}
    window = gpuload.Window(4, **{key: value for key, value in options.items() if key != "groups"})
    native = gpuload.Loader(
        gpuload.Series(data, labels, **groups), window, batch_size=8, framework="torch", device="cpu"
    )
    expected = [list(batch) if isinstance(batch, tuple) else batch for batch in native]
    same(list(Stock(dataset, 8)), expected)
    ours = list(DataLoader(dataset, 8, device=device))
    if device == "cpu":
        same(ours, expected)
    else:
        assert [[part.shape for part in batch if not isinstance(part, dict)] for batch in ours] == [
            [part.shape for part in batch if not isinstance(part, dict)] for batch in expected
        ]
    singles = list(DataLoader(dataset, None, device="cpu"))
    same(singles, [list(dataset[number]) for number in range(len(dataset))])
    if name != "LBC":
        same(default_collate(singles[:8]), expected[0])


def test_random_windows() -> None:
    """The same seed draws the same; another epoch draws something else; a batch's size changes nothing."""
    dataset = TimeSeriesDataset(array(60, (3,)), array(60), 8, jitter=0.1, reverse=0.5, zoom=0.2, scaling=0.1)

    def epochs(loader: Any) -> list[torch.Tensor]:
        torch.manual_seed(4)
        return [torch.cat([inputs for inputs, _ in loader]) for _ in range(2)]

    first, second = epochs(DataLoader(dataset, 8, device="cpu"))
    same(epochs(DataLoader(dataset, 5, device="cpu")), [first, second])
    assert not torch.equal(first, second)
    with pytest.warns(UserWarning, match="worker processes") if (torch._utils.cpu_count() or 1) < 2 else nothing():
        persistent = DataLoader(dataset, 8, device="cpu", num_workers=2, persistent_workers=True)
    again = epochs(persistent)
    same(again[0], first)
    assert not torch.equal(again[0], again[1])
    first, second = epochs(Stock(dataset, 8))
    same(epochs(Stock(dataset, 8)), [first, second])
    assert not torch.equal(first, second)


def test_workers_have_no_effect(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on batches nor on what is drawn: with persistent workers PyTorch draws their seed once."""
    data = array(40, (3,))
    monkeypatch.setattr("gpuload.core.available._announced", set())
    for persistent in (False, True):
        batches = []
        for loader_kind, dataset, options in (
            (Stock, Original(data, None, 4), {}),
            (DataLoader, TimeSeriesDataset(data, None, 4), {"device": "cpu"}),
        ):
            torch.manual_seed(8)
            workers = {"num_workers": 1, "persistent_workers": persistent, "prefetch_factor": 3}
            with caplog.at_level(logging.INFO, "gpuload"):
                loader = loader_kind(dataset, 8, shuffle=True, **workers, **options)
            batches.append([list(loader), list(loader), list(loader)])
        same(batches[1], batches[0])
    assert caplog.text.count("num_workers and pin_memory have no effect") == 1


def test_subsets(device: str) -> None:
    """As random_split makes them, one inside another, with samplers of their own length."""
    data, labels = array(60, (3,)), array(60)
    batches = []
    for dataset, kind, options in (
        (Original(data, labels, 4), Stock, {}),
        (TimeSeriesDataset(data, labels, 4), DataLoader, {"device": device}),
    ):
        torch.manual_seed(2)
        train, rest = random_split(dataset, [0.7, 0.3])
        parts = [train, Subset(rest, np.array([3, 1, 4])), Subset(rest, range(5, 9))]
        batches.append([list(kind(part, 8, shuffle=True, **options)) for part in parts])
    same(batches[1], batches[0])
    with pytest.raises(IndexError, match="index must be from -57 to 56, the data set has 57 windows, not 57"):
        DataLoader(Subset(TimeSeriesDataset(data, labels, 4), [57]))


def test_series_as_data(tmp_path: Path) -> None:
    series = gpuload.Series(array(20), targets=array(20, (), "int64"))
    same(TimeSeriesDataset(series, seq_length=4)[3], TimeSeriesDataset(series.values, series.targets, 4)[3])
    np.save(tmp_path / "data.npy", series.values)
    same(TimeSeriesDataset(tmp_path / "data.npy", None, 4)[3], torch.from_numpy(array(20)[3:7]))
    assert len(TimeSeriesDataset([array(10), array(3), array(6)], None, 4)) == 7 + 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors(dtype: torch.dtype, device: str) -> None:
    data, labels = torch.from_numpy(array(40, (3,))).to(dtype), torch.arange(40).to(dtype)
    theirs = list(Stock(Original(data, labels, 4), 8))
    same(list(Stock(TimeSeriesDataset(data, labels, 4), 8)), theirs)
    ours = list(DataLoader(TimeSeriesDataset(data.to(device), labels.to(device), 4), 8))
    assert all(part.device.type == device for batch in ours for part in batch)
    same(ours, theirs)


def test_lists_of_numbers() -> None:
    """Python's own numbers, as labels: PyTorch makes float64 and int64 of them."""
    data = array(20, (2,))
    for labels in (list(range(20)), [x / 3 for x in range(20)], [x % 3 == 0 for x in range(20)]):
        theirs = list(Stock(Original(data, labels, 4), 8))
        same(list(Stock(TimeSeriesDataset(data, labels, 4), 8)), theirs)
        same(list(DataLoader(TimeSeriesDataset(data, labels, 4), 8, device="cpu")), theirs)


def test_batches_live_on() -> None:
    """A batch that is held does not change, and may be changed without changing another, or the data."""
    data = array(50, (3,))
    loader = DataLoader(TimeSeriesDataset(data, array(50), 4), 8, device="cpu")
    expected = [[part.clone() for part in batch] for batch in loader]
    held = []
    for batch in loader:
        held.append(batch)
        batch[0].add_(0)
    same(held, expected)
    held[0][0].fill_(-1)
    same(held[1:], expected[1:])
    same(list(loader), expected)


def test_iterators_side_by_side() -> None:
    loader = DataLoader(TimeSeriesDataset(array(50, (3,)), array(50), 4), 8, device="cpu")
    one, other = iter(loader), iter(loader)
    first = next(one)
    for a, b in itertools.zip_longest(itertools.chain([first], one), other):
        same(a, b)
    assert next(one, None) is next(one, None) is None
    next(iter(loader))
    loader.close()
    assert len(list(loader)) == len(loader) == 6
    assert (loader.device, loader.engine) == ("cpu", "numpy")


def test_engines_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch that is broken off leaves its engine to the next at once, without the garbage collector."""
    opened = []
    open_engine = gpuload.windows.pool.WindowPool.open_engine  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "gpuload.windows.pool.WindowPool.open_engine", lambda pool: (opened.append(1), open_engine(pool))[1]
    )
    loader = DataLoader(TimeSeriesDataset(array(50, (3,)), None, 4), 8, shuffle=True, device="cpu")
    monkeypatch.setattr("gpuload.windows.pool.PIECE_BYTES", 1)
    gc.disable()
    try:
        for _ in range(3):
            next(iter(loader))
        list(loader)
        persistent = DataLoader(
            TimeSeriesDataset(array(50), None, 4), 8, num_workers=1, persistent_workers=True, device="cpu"
        )
        for _ in range(3):
            next(iter(persistent))
    finally:
        gc.enable()
    assert len(opened) == 2


def test_pickles(tmp_path: Path) -> None:
    """Of a mapped file the place is pickled, also of a part of it; other arrays as they are."""
    data = array(5000, (8,))
    np.save(tmp_path / "data.npy", data)
    mapped = np.load(tmp_path / "data.npy", mmap_mode="r")
    for values, labels in ((mapped, mapped[:, 0]), (mapped[7:, ::-2], None), (mapped[::-1], mapped[::-1][:, 3])):
        dataset = TimeSeriesDataset(values, labels, 9)
        dataset[0]
        pickled = pickle.dumps(dataset)
        assert len(pickled) < 10_000
        again = pickle.loads(pickled)
        assert again.series.mapped
        same(list(Stock(again, 500)), list(Stock(dataset, 500)))
    again = pickle.loads(pickle.dumps(TimeSeriesDataset(data, None, 9, stride=2)))
    same(again[5], torch.from_numpy(data[10:19]))
    changed = np.memmap(tmp_path / "data.npy", np.float32, "c", 128, (5000, 8))
    changed[0] = -1  # In memory only.
    same(pickle.loads(pickle.dumps(TimeSeriesDataset(changed, None, 9)))[0], torch.from_numpy(changed[:9].copy()))
    loader = DataLoader(TimeSeriesDataset(mapped, None, 9), 500, shuffle=True, device="cpu")
    batches = []
    for each in (loader, pickle.loads(pickle.dumps(loader))):
        torch.manual_seed(1)
        batches.append(list(each))
    same(*batches)


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    """The error reaches the one who asks for the batch."""
    np.save(tmp_path / "data.npy", array(500, (8,)))
    loader = DataLoader(TimeSeriesDataset(tmp_path / "data.npy", None, 9), 100, device="cpu")
    with (tmp_path / "data.npy").open("r+b") as file:
        file.truncate(4000)
    with pytest.raises(RuntimeError, match="values must keep their length while they are mapped"):
        next(iter(loader))


class Doubled(TimeSeriesDataset):
    def __getitem__(self, index: int) -> Any:
        window, label = super().__getitem__(index)
        return window * 2, label


def test_subclasses() -> None:
    """A sample that a user makes in a method of their own is never passed by."""
    dataset = Doubled(array(20), array(20), 4)
    for inputs, _ in Stock(dataset, 17):
        same(inputs, torch.stack([dataset[i][0] for i in range(17)]))
    message = "Doubled has methods of its own, which would not be called: use torch.utils.data.DataLoader"
    with pytest.raises(TypeError, match=message):
        DataLoader(dataset)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seq_length": None}, ValueError, "seq_length must be an integer of at least 1, not None"),
        ({"seq_length": 2.0}, ValueError, "seq_length must be an integer of at least 1, not 2.0"),
        ({"seq_length": 40}, ValueError, "length=40 is too long"),
        ({"lenght": 4}, TypeError, "'lenght' is no option of gpuload.Window: there are stride, dilation, "),
        ({"length": 4}, TypeError, "'length' is no option of gpuload.Window"),
        ({"labels": np.arange(19)}, ValueError, "must have one entry for each row"),
        (
            {"data": gpuload.Series(np.zeros(9)), "labels": np.arange(9)},
            ValueError,
            "labels must be None where data is a Series, which has its own: leave it out",
        ),
        ({"data": gpuload.Series(np.zeros(9)), "groups": np.arange(9)}, ValueError, "groups must be None where"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TimeSeriesDataset(**{"data": np.zeros(20), "seq_length": 4, **arguments})


def test_labels_that_are_no_numbers() -> None:
    dataset = TimeSeriesDataset(np.zeros(9), list("abcabcabc"), 4)
    for use in (lambda: dataset[0], lambda: DataLoader(dataset)):
        with pytest.raises(
            ValueError, match="targets must be of a dtype that framework='torch' has, not str32: number"
        ):
            use()


def test_loader_that_makes_no_sense() -> None:
    message = "dataset must be a gpuload.torch.TimeSeriesDataset, or a Subset of one, but got Original: use torch.utils"
    with pytest.raises(TypeError, match=message):
        DataLoader(Original(array(20), None, 4))
    dataset = TimeSeriesDataset(array(20), None, 4)
    with pytest.raises(ValueError, match="prefetch_factor option could only be specified in multiprocessing"):
        DataLoader(dataset, prefetch_factor=2)
    with pytest.raises(ValueError, match="sampler option is mutually exclusive with shuffle"):
        DataLoader(dataset, shuffle=True, sampler=[1])
    with pytest.raises(ValueError, match="engine must be one of auto, cupy, numpy for windows, not 'dali'"):
        DataLoader(dataset, engine="dali")
    with pytest.raises(TypeError, match="unexpected keyword argument 'shufle'"):
        DataLoader(dataset, shufle=True)
    with pytest.raises(ValueError, match="batch_sampler must yield batches with at least one number"):
        next(iter(DataLoader(dataset, batch_sampler=[[]], device="cpu")))
    with pytest.raises(IndexError, match="index must be from -17 to 16, the data set has 17 windows, not 17"):
        next(iter(DataLoader(dataset, batch_sampler=[[17]], device="cpu")))
    with pytest.raises(TypeError, match="indices must be whole numbers"):
        next(iter(DataLoader(dataset, batch_size=2, sampler=[0.0, 1.0], device="cpu")))


def test_default_collate_is_left_as_it_was() -> None:
    """One type more is known to it, and tuples of that type are collated as other tuples are."""
    samples = TimeSeriesDataset(array(20), array(20), 4).__getitems__([1, 2])
    same(default_collate([*samples]), default_collate(samples))
    same(default_collate([(torch.ones(2), 1)]), [torch.ones(1, 2), torch.tensor([1])])
    assert len(samples) == 2
    with pytest.raises(IndexError):
        samples[2]


def test_pinning_without_an_accelerator() -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is one")
    loader = DataLoader(TimeSeriesDataset(array(20), None, 4), 5, pin_memory=True, device="cpu")
    with pytest.warns(UserWarning, match="no accelerator is found"):
        assert len(list(loader)) == 4


def test_import_gpuload_does_not_import_torch() -> None:
    program = "import sys, gpuload; assert 'torch' not in sys.modules; import gpuload.torch; gpuload.torch.DataLoader"
    subprocess.run([sys.executable, "-c", program], check=True)
