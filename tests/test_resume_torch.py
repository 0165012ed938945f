"""Going on in the middle of an epoch: `gpuload.torch.DataLoader` beside torchdata's, and what keeps checkpoints."""

import itertools
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import lightning
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data import DataLoader as Stock
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler as StatefulRandomSampler
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

import gpuload
from gpuload.torch import DataLoader, TimeSeriesDataset
from tests.test_ecosystem import lightning_warnings

COUNT = 23
SMALL = 1000
"""Letters of JSON in which a state finds room, where no generator's own state is in it."""


def dataset(count: int = COUNT, **options: Any) -> TimeSeriesDataset:
    """Windows of one step, whose value is the window's number."""
    return TimeSeriesDataset(np.arange(float(count)), seq_length=1, **options)


def numbers(batches: Any) -> list[list[int]]:
    return [batch.flatten().int().tolist() for batch in batches]


def taken(batches: Iterator[Any], count: int) -> list[list[int]]:
    return numbers(itertools.islice(batches, count))


class Uneven(Sampler):
    """A batch sampler as users write them: batches of several lengths, drawn as they are made."""

    def __init__(self, generator: torch.Generator | None):
        self.generator = generator

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(6):
            yield torch.randint(COUNT, (1 + number * 2 % 5,), generator=self.generator).tolist()


class Eager(Sampler):
    """As many write them: the order is drawn at `iter`."""

    def __init__(self, generator: torch.Generator | None):
        self.generator = generator

    def __len__(self) -> int:
        return COUNT

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(COUNT, generator=self.generator).tolist())


class Counting(Sampler):
    """With a state of its own, which it hands out as it is: where it stands in its pass, which is another each time."""

    def __init__(self, batch: int | None = None):
        self.batch, self.state = batch, {"passes": 0, "stands": 0}

    def __iter__(self) -> Iterator[Any]:
        state, size = self.state, self.batch or 1
        order = np.random.default_rng(state["passes"]).permutation(COUNT).tolist()
        while state["stands"] < COUNT:
            chosen = order[state["stands"] : state["stands"] + size]
            state["stands"] += size
            yield chosen if self.batch else chosen[0]
        state["passes"], state["stands"] = state["passes"] + 1, 0

    def state_dict(self) -> dict[str, int]:
        return self.state

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.state = dict(state)


Make = Callable[[Any, torch.Generator | None], dict[str, Any]]
DRAWN: dict[str, Make] = {
    "in order": lambda data, g: {"batch_size": 4, "generator": g},
    "shuffle": lambda data, g: {"batch_size": 4, "shuffle": True, "generator": g},
    "whole batches": lambda data, g: {"batch_size": 4, "shuffle": True, "drop_last": True, "generator": g},
    "one by one": lambda data, g: {"batch_size": None, "shuffle": True, "generator": g},
    "own sampler": lambda data, g: {"batch_size": 4, "sampler": RandomSampler(data, generator=g)},
    "two generators": lambda data, g: {
        "batch_size": 4,
        "sampler": RandomSampler(data, generator=g),
        "generator": torch.Generator().manual_seed(9),
    },
    "replacement": lambda data, g: {"batch_size": 4, "sampler": RandomSampler(data, True, 90, generator=g)},
    "twice": lambda data, g: {"batch_size": 4, "sampler": RandomSampler(data, num_samples=50, generator=g)},
    "batch sampler": lambda data, g: {"batch_sampler": BatchSampler(RandomSampler(data, generator=g), 4, True)},
    "persistent": lambda data, g: {
        "batch_size": 4,
        "shuffle": True,
        "generator": g,
        "num_workers": 1,
        "persistent_workers": True,
    },
}
"""What draws by PyTorch's own sampler, from a generator of one's own or from the global one, or draws nothing."""
STATES: dict[str, Make] = {
    "weighted": lambda data, g: {
        "batch_size": 4,
        "sampler": WeightedRandomSampler(np.arange(len(data)) + 1, 30, generator=g),
        "generator": g,
    },
    "subset": lambda data, g: {"batch_size": 4, "sampler": SubsetRandomSampler(range(3, 20), generator=g)},
    "weighted, one by one": lambda data, g: {
        "batch_size": None,
        "sampler": WeightedRandomSampler(np.arange(len(data)) + 1, 9, generator=g),
    },
    "drawn at once": lambda data, g: {"batch_size": 4, "sampler": Eager(g)},
    "batches of a subset": lambda data, g: {
        "batch_sampler": BatchSampler(SubsetRandomSampler(range(3, 20), generator=g), 4, False)
    },
}
"""What draws by another sampler: then how the generator stood is in the state, also if it was the global one."""
OTHERS: dict[str, Make] = {
    "list": lambda data, g: {"batch_size": 4, "sampler": [3, 1, 4, 1, 5, -9, 2, 6]},
    "distributed": lambda data, g: {"batch_size": 4, "sampler": DistributedSampler(data, 2, 1, seed=5)},
    "stateful distributed": lambda data, g: {"batch_size": 4, "sampler": StatefulDistributedSampler(data, 2, 1)},
    "counting": lambda data, g: {"batch_size": 4, "sampler": Counting()},
    "counting, whole batches": lambda data, g: {"batch_size": 4, "sampler": Counting(), "drop_last": True},
    "counting, one by one": lambda data, g: {"batch_size": None, "sampler": Counting()},
    "counting batches": lambda data, g: {"batch_sampler": Counting(batch=5)},
}
"""What draws nothing from PyTorch's generators."""


def loader_of(make: Make, seed: int, explicit: bool, **options: Any) -> tuple[DataLoader, torch.Generator | None]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1) if explicit else None
    data = dataset(**options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*worker processes")  # Of a machine with one CPU.
        return DataLoader(data, device="cpu", **make(data, generator)), generator


def as_text(state: Any) -> Any:
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("name", [*DRAWN, *STATES, *OTHERS])
@settings(max_examples=25)
@given(
    explicit=st.booleans(),
    epochs=st.integers(0, 2),
    stop=st.none() | st.integers(0, 8) | st.sampled_from([23, 24]),
    piece=st.sampled_from([1, 64, 2**21]),
    options=st.sampled_from([{}, {"scaling": 0.5, "jitter": 0.1}]),
)
def test_what_follows_is_what_would_have_followed(
    name: str, explicit: bool, epochs: int, stop: int | None, piece: int, options: dict[str, Any]
) -> None:
    """To the bit, two epochs long, and the generators draw the same then: of a program with other seeds, that loads the
    state and sets the global generator. `stop` None asks for the state before there is an iterator."""
    make = {**DRAWN, **STATES, **OTHERS}[name]

    def draw(generator: torch.Generator | None) -> Any:
        return None if generator is None or name in OTHERS else torch.rand(2, generator=generator).tolist()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuload.windows.pool.PIECE_BYTES", piece)
        first, generator = loader_of(make, 1, explicit, **options)
        for _ in range(epochs):
            list(first)
        rest: Any = first
        if stop is not None:
            rest = iter(first)
            if len(list(itertools.islice(rest, stop))) < stop:  # It told its end: the next epoch follows.
                rest = first
        torch.rand(3)  # A model draws, too.
        state, global_state = first.state_dict(), torch.get_rng_state()
        expected = [list(rest), list(first), torch.rand(2), draw(generator)]

        second, generator = loader_of(make, 50, explicit, **options)
        second.load_state_dict(as_text(state))
        assert second.state_dict() == state
        torch.set_rng_state(global_state)
        found = [list(second), list(second), torch.rand(2), draw(generator)]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    if name in OTHERS or (name in DRAWN and not explicit and name != "two generators"):
        assert len(json.dumps(state)) < SMALL


@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_a_batch_sampler_that_draws_as_it_goes(stop: int) -> None:
    """From a generator of its own, which stands ahead of what was delivered."""
    first, second = (
        DataLoader(dataset(), batch_sampler=Uneven(torch.Generator().manual_seed(seed)), device="cpu")
        for seed in (1, 2)
    )
    batches = iter(first)
    list(itertools.islice(batches, stop))
    second.load_state_dict(as_text(first.state_dict()))
    assert numbers(second) == numbers(batches)
    assert numbers(second) == numbers(first)


class Plain(torch.utils.data.Dataset):
    """The same windows as users write them."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.tensor([float(range(COUNT)[number])])


ALIKE: dict[str, Callable[[Any], dict[str, Any]]] = {
    "in order": lambda data: {"batch_size": 4},
    "whole batches": lambda data: {"batch_size": 4, "drop_last": True},
    "one by one": lambda data: {"batch_size": None},
    "own sampler": lambda data: {
        "batch_size": 4,
        "sampler": RandomSampler(data, generator=torch.Generator().manual_seed(3)),
    },
    "torchdata's sampler": lambda data: {
        "batch_size": 4,
        "sampler": StatefulRandomSampler(data, generator=torch.Generator().manual_seed(3)),
    },
    "torchdata's sampler, a part": lambda data: {
        "batch_size": 4,
        "sampler": StatefulRandomSampler(data, num_samples=10, generator=torch.Generator().manual_seed(3)),
    },
    "torchdata's distributed sampler": lambda data: {
        "batch_size": 4,
        "sampler": StatefulDistributedSampler(data, 2, 1),
    },
    "counting": lambda data: {"batch_size": 4, "sampler": Counting()},
    "counting batches": lambda data: {"batch_sampler": Counting(batch=5)},
    "list": lambda data: {"batch_size": 4, "sampler": [3, 1, 4, 1, 5, 9, 2, 6]},
    "distributed": lambda data: {"batch_size": 4, "sampler": DistributedSampler(data, 2, 1, seed=5)},
}


BEFORE, BEGUN, FIRST, LAST, END, AFTER = "before", "begun", "first", "last", "end", "after"
NOT_TORCHDATA = {
    ("own sampler", AFTER),  # Forgets that PyTorch's sampler draws once more when it is asked for its end.
    ("counting", END),  # Takes a sampler's state at the start of its next pass for the rest of this one.
    ("torchdata's distributed sampler", AFTER),  # Takes the end of a pass for the rest of it, and has an empty epoch.
}
"""Where torchdata does not go on as if nothing had happened, and gpuload does."""


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize(
    ("name", "when"),
    sorted({*itertools.product(ALIKE, [BEFORE, BEGUN, FIRST, LAST, END, AFTER])} - NOT_TORCHDATA),
)
def test_as_torchdata_does(name: str, when: str) -> None:
    """A state before there is an iterator, before its first batch, in the epoch, at its end before that was told, and
    after: the batches that follow in another loader are those of a `StatefulDataLoader`."""
    follow = []
    for kind, data, options in ((StatefulDataLoader, Plain(), {}), (DataLoader, dataset(), {"device": "cpu"})):
        whole, loader, again = (kind(data, **ALIKE[name](data), **options) for _ in range(3))
        steps = len(list(whole))
        if when != BEFORE:
            batches = iter(loader)
            list(itertools.islice(batches, {BEGUN: 0, FIRST: 1, LAST: steps - 1, END: steps, AFTER: steps + 1}[when]))
        again.load_state_dict(loader.state_dict())
        follow.append([numbers(again), numbers(again)])
        assert len(follow[-1][0]) == {FIRST: steps - 1, LAST: 1, END: 0}.get(when, steps)
    assert follow[0] == follow[1]


def test_an_epoch_may_be_broken_off_again() -> None:
    make = DRAWN["shuffle"]
    first, _ = loader_of(make, 1, True)
    expected = numbers(first)
    found: list[list[int]] = []
    loader, _ = loader_of(make, 1, True)
    for stop in (2, 0, 1, 3):
        found += taken(iter(loader), stop)
        state = as_text(loader.state_dict())
        assert (state["batches"], state["seen"]) == (len(found), sum(map(len, found)))
        loader, _ = loader_of(make, 7, True)
        loader.load_state_dict(state)
    assert found == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("method", ["submit", "take", "delivered"])
def test_an_interrupt_ends_an_iteration_and_counts_nothing(
    method: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = numbers(loader_of(DRAWN["shuffle"], 1, True)[0])
    loader, _ = loader_of(DRAWN["shuffle"], 1, True)
    monkeypatch.setattr(loader.pool, "together", 1)
    batches = iter(loader)
    found = taken(batches, 1)

    original = getattr(loader.pool, method)

    def fail(*arguments: Any) -> Any:
        original(*arguments)
        raise error

    before = loader.state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(loader.pool, method, fail)
        with pytest.raises(error):
            next(batches)
    assert loader.state_dict() == before
    if error is MemoryError and method != "submit":  # That batch is lost, the next one comes.
        assert numbers(batches) == expected[len(found) + 1 :]
        return
    with pytest.raises(RuntimeError, match=r"was interrupted, by Ctrl-C or an exception.*load_state_dict"):
        next(batches)
    loader.load_state_dict(loader.state_dict())
    assert found + numbers(loader) == expected


def test_iterators_side_by_side() -> None:
    """The state is of the one that was made last. The other goes on, also when a state is loaded."""
    loader, _ = loader_of(DRAWN["shuffle"], 1, True)
    one, other = iter(loader), iter(loader)
    seen = taken(one, 2)
    taken(other, 3)
    taken(one, 1)
    state = loader.state_dict()
    assert state["batches"] == 3
    again, _ = loader_of(DRAWN["shuffle"], 5, True)
    again.load_state_dict(state)
    rest = numbers(other)
    assert numbers(again) == rest
    loader.load_state_dict(state)
    assert len(numbers(one)) == 3
    assert len(seen) == 2
    assert loader.state_dict() == state
    assert numbers(loader) == rest


def test_nothing_is_drawn_for_the_rest_of_an_epoch() -> None:
    loader, _ = loader_of(DRAWN["shuffle"], 1, False)
    next(iter(loader))
    state, before = loader.state_dict(), torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), before)
    loader.load_state_dict(state)
    assert len(list(loader)) == 5
    assert torch.equal(torch.get_rng_state(), before)
    list(loader)
    assert not torch.equal(torch.get_rng_state(), before)


def test_set_epoch_keeps_the_rest_of_the_epoch_that_was_loaded_and_of_no_other() -> None:
    """As of `gpuload.Loader`; also where the iterator is made first, as Lightning does."""

    def make() -> tuple[DataLoader, DistributedSampler]:
        data = dataset()
        sampler = DistributedSampler(data, 2, 0, seed=5)
        return DataLoader(data, 4, sampler=sampler, device="cpu"), sampler

    loader, sampler = make()
    sampler.set_epoch(3)
    batches = iter(loader)
    next(batches)
    state, rest = as_text(loader.state_dict()), numbers(batches)
    sampler.set_epoch(4)
    following = numbers(loader)
    for epoch, expected in ((None, rest), (3, rest), (4, following)):
        loader, sampler = make()
        loader.load_state_dict(state)
        batches = iter(loader)
        if epoch is not None:
            sampler.set_epoch(epoch)
        assert numbers(batches) == expected


def test_another_epoch_than_the_loaded_one_draws_other_numbers() -> None:
    data = TimeSeriesDataset(np.ones(COUNT), seq_length=1, scaling=0.5)
    sampler = DistributedSampler(data, 2, 0)
    loader = DataLoader(data, 4, sampler=sampler, device="cpu")
    batches = iter(loader)
    first = next(batches)
    loader.load_state_dict(loader.state_dict())
    sampler.set_epoch(1)
    assert not torch.isclose(next(iter(loader)), first).any()


def test_parts_of_a_data_set() -> None:
    """Another part of it is another data set."""
    loaders = [DataLoader(Subset(dataset(), part), 4, shuffle=True, device="cpu") for part in ([5, 3, 8] * 3, range(9))]
    batches = iter(loaders[0])
    next(batches)
    state = loaders[0].state_dict()
    rest = numbers(batches)
    loaders[0].load_state_dict(state)
    assert numbers(loaders[0]) == rest
    with pytest.raises(ValueError, match=r"subset was [0-9a-f]{16}, and is [0-9a-f]{16}"):
        loaders[1].load_state_dict(state)


def test_a_batch_that_cannot_be_collated_counts() -> None:
    """It was delivered to the function; the next one follows."""

    def collate(samples: Any) -> list[int]:
        found = [int(sample) for sample in samples]
        if 4 in found:
            raise ArithmeticError
        return found

    loader = DataLoader(dataset(), 4, collate_fn=collate, device="cpu")
    batches = iter(loader)
    assert next(batches) == [0, 1, 2, 3]
    with pytest.raises(ArithmeticError):
        next(batches)
    loader.load_state_dict(loader.state_dict())
    assert next(iter(loader)) == [8, 9, 10, 11]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5}, "batch_size was 4, and is 5"),
        ({"drop_last": True}, "drop_last was False, and is True"),
        ({"shuffle": False}, "sampler was RandomSampler, and is SequentialSampler"),
        ({"data": dataset(24)}, "windows was 23, and is 24; samples was 23, and is 24; source was"),
        ({"data": dataset(dtype="float32")}, "window.dtype was the default, and is 'float32'"),
        ({"shuffle": None, "sampler": [1, 2]}, "sampler was RandomSampler, and is list; samples was 23, and is 2"),
    ],
)
def test_a_state_of_another_loader_is_refused(changes: dict[str, Any], message: str) -> None:
    options = {"data": dataset(), "batch_size": 4, "shuffle": True, **changes}
    other = DataLoader(options.pop("data"), device="cpu", **options)
    state = DataLoader(dataset(), 4, shuffle=True, device="cpu").state_dict()
    with pytest.raises(ValueError, match=f"^state is of another loader: {message}.*Make the loader as it was"):
        other.load_state_dict(state)


def test_what_is_no_state_is_refused() -> None:
    loader = DataLoader(dataset(), 4, device="cpu")
    native = gpuload.Loader(gpuload.Series(np.arange(9.0)), gpuload.Window(1), batch_size=4, device="cpu")
    for state in (None, {}, {"version": 1}, native.state_dict(), {**loader._identity, "version": 1, "seed": None}):
        with pytest.raises(ValueError, match=r"^state must be what state_dict\(\)"):
            loader.load_state_dict(state)
    with pytest.raises(ValueError, match="batches must be an integer of at least 0, not -1"):
        loader.load_state_dict({**loader.state_dict(), "batches": -1})


IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 6, 3), dtype=np.uint8)
RANDOM = gpuload.Augment(rotation=20, zoom=0.3, hflip=0.5, brightness=(0.5, 1.5))


def images() -> gpuload.Loader:
    source = gpuload.ImageArray(IMAGES, labels=np.arange(COUNT))
    return gpuload.Loader(source, RANDOM, batch_size=4, shuffle=True, seed=3, framework="torch", device="cpu")


def untouched() -> gpuload.Loader:
    """Images without options, of whose transform nothing is to be told."""
    source = gpuload.ImageArray(IMAGES, labels=np.arange(COUNT))
    return gpuload.Loader(
        source, gpuload.Augment(), batch_size=4, shuffle=True, seed=3, framework="torch", device="cpu"
    )


def windows(count: int = COUNT, **options: Any) -> gpuload.Loader:
    series = gpuload.Series(np.arange(float(count)), targets=np.arange(count))
    options = {"batch_size": 4, "shuffle": True, "seed": 3, "framework": "torch", "device": "cpu", **options}
    return gpuload.Loader(series, gpuload.Window(1), **options)


def of_torch() -> DataLoader:
    data = TimeSeriesDataset(np.arange(float(COUNT)), np.arange(COUNT), 1, scaling=0.3)
    return DataLoader(data, 4, shuffle=True, device="cpu")


def counting() -> DataLoader:
    data = TimeSeriesDataset(np.arange(float(COUNT)), np.arange(COUNT), 1)
    return DataLoader(data, 4, sampler=Counting(), device="cpu")


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close([list(batch) for batch in found], [list(batch) for batch in expected], rtol=0, atol=0)


alone = pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")


@alone
@pytest.mark.parametrize("make", [images, untouched, windows, of_torch, counting])
@pytest.mark.parametrize("stop", [0, 2, 6])
def test_distributed_checkpoint(make: Callable[[], Any], stop: int, tmp_path: Path) -> None:
    """One process alone: what is in the checkpoint goes on with the same pixels."""
    loader = make()
    batches = iter(loader)
    list(itertools.islice(batches, stop))
    dcp.save({"loader": loader}, checkpoint_id=tmp_path / "checkpoint")
    stands = torch.get_rng_state()
    expected = [*batches, *loader]
    again = make()
    dcp.load({"loader": again}, checkpoint_id=tmp_path / "checkpoint")
    torch.set_rng_state(stands)
    assert_same([*again, *again], expected)


@alone
def test_a_distributed_checkpoint_of_another_data_set(tmp_path: Path) -> None:
    """torch.distributed.checkpoint reads what the new loader's state has a place for."""
    dcp.save({"loader": of_torch()}, checkpoint_id=tmp_path / "checkpoint")
    other = DataLoader(TimeSeriesDataset(np.arange(float(COUNT)), np.arange(COUNT), 1), 4, shuffle=True, device="cpu")
    with pytest.raises(Exception, match=r"window\.scaling was 0\.3, and is the default"):
        dcp.load({"loader": other}, checkpoint_id=tmp_path / "checkpoint")


RANK = """
import json, sys
import numpy as np, torch.distributed, torch.distributed.checkpoint as dcp, gpuload
from torch.utils.data.distributed import DistributedSampler

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
series = gpuload.Series(np.arange(100.0), targets=np.arange(100))
options = {"batch_size": 4, "shuffle": True, "seed": 3, "framework": "torch", "device": "cpu"}
loader = gpuload.Loader(series, gpuload.Window(1), shard="auto", **options)

def taken(batches, count):
    return [number for _ in range(count) for number in next(batches)[1].tolist()]

batches = iter(loader)
seen = taken(batches, 3)
dcp.save({"loader": loader}, checkpoint_id=f"{folder}/checkpoint")
rest = [number for batch in batches for number in batch[1].tolist()]
again = gpuload.Loader(series, gpuload.Window(1), shard="auto", **options)
dcp.load({"loader": again}, checkpoint_id=f"{folder}/checkpoint")
assert [number for batch in again for number in batch[1].tolist()] == rest
print(json.dumps({"seen": seen, "rest": rest}))
torch.distributed.destroy_process_group()
"""


@alone
def test_two_ranks_save_and_one_or_three_go_on(tmp_path: Path) -> None:
    """With the samples that neither of the two had, each once."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = []
    for rank in ranks:
        printed, errors = rank.communicate(timeout=300)
        assert rank.returncode == 0, errors
        told.append(json.loads(printed.splitlines()[-1]))
    seen = [*told[0]["seen"], *told[1]["seen"]]
    assert len(seen) == 2 * 3 * 4
    assert sorted(seen + told[0]["rest"] + told[1]["rest"]) == list(range(100))
    for count in (1, 3):
        parts = [windows(100, shard=(rank, count)) for rank in range(count)]
        for part in parts:
            dcp.load({"loader": part}, checkpoint_id=tmp_path / "checkpoint")
        rest = [[batch[1].tolist() for batch in part] for part in parts]
        assert len({len(part) for part in rest}) == 1
        assert sorted(seen + [number for part in rest for batch in part for number in batch]) == list(range(100))
        following = [number for part in parts for batch in part for number in batch[1].tolist()]
        assert sorted(following) == list(range(100))


@pytest.mark.parametrize("make", [images, windows, of_torch, counting])
def test_a_state_is_loaded_as_weights_are(make: Callable[[], Any], tmp_path: Path) -> None:
    """`torch.load` takes it without leave to run code, and JSON finds it small."""
    loader = make()
    batches = iter(loader)
    list(itertools.islice(batches, 2))
    torch.save({"step": 2, "loader": loader.state_dict()}, tmp_path / "checkpoint.pt")
    assert len(json.dumps(loader.state_dict())) < SMALL
    again = make()
    again.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["loader"])
    assert_same(list(again), list(batches))


def seeded() -> DataLoader:
    data = TimeSeriesDataset(np.arange(float(COUNT)), np.arange(COUNT), 1, scaling=0.3)
    return DataLoader(data, 4, shuffle=True, generator=torch.Generator().manual_seed(3), device="cpu")


class Trained(lightning.LightningModule):
    """Writes down the batches of its training, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch))
        return self.weight * batch[0].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(loader: Any, **options: Any) -> list[Any]:
    """The epoch and the batch of each step."""
    callbacks = options.pop("callbacks", [])
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_model_summary=False,
        enable_progress_bar=False,
        max_epochs=2,
        callbacks=callbacks,
    )
    model = Trained()
    trainer.fit(model, loader, **options)
    return model.seen


NO_CHECKPOINTS = "ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be"
STEPS = 6  # Of 23 samples in fours.


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], tuple[list[Any], Path]]:
    """The steps of a training of two epochs, and a folder with a checkpoint after each: step=1.ckpt, ..."""
    done: dict[Any, Any] = {}

    def run(make: Callable[[], Any]) -> tuple[list[Any], Path]:
        if make not in done:
            folder = tmp_path_factory.mktemp("checkpoints")
            save = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
            done[make] = fit(make(), callbacks=[save]), folder
        return done[make]

    return run


@lightning_warnings
@pytest.mark.filterwarnings(NO_CHECKPOINTS)
@pytest.mark.parametrize(
    ("make", "step"),
    [
        *itertools.product([images, windows], [1, 3, 5, 6, 7, 11, 12]),
        # After an epoch's last batch: see below.
        *itertools.product([seeded], [1, 3, 5, 7, 11]),
    ],
)
def test_lightning(make: Callable[[], Any], step: int, fitted: Any) -> None:
    """A training goes on with exactly the batches that it had not seen, to the pixel, also in the epoch after."""
    expected, folder = fitted(make)
    assert len(expected) == 2 * STEPS
    found = fit(make(), ckpt_path=folder / f"step={step}.ckpt")
    rest = expected[step:]
    assert [epoch for epoch, _ in found] == [epoch for epoch, _ in rest]
    assert_same([batch for _, batch in found], [batch for _, batch in rest])


class Labelled(Plain):
    def __getitem__(self, number: int) -> Any:
        return super().__getitem__(number), number


def of_torchdata() -> StatefulDataLoader:
    return StatefulDataLoader(Labelled(), 4, shuffle=True)


@lightning_warnings
@pytest.mark.filterwarnings(NO_CHECKPOINTS)
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_lightning_counts_as_with_torchdata(fitted: Any) -> None:
    """How many steps follow. After an epoch's last batch, Lightning makes an iterator of the rest, in which there is
    none, and takes that for the next epoch's, which is then empty. To a `gpuload.Loader` it tells the epoch."""
    for step in (STEPS - 1, STEPS):
        follow = [
            [epoch for epoch, _ in fit(make(), ckpt_path=fitted(make)[1] / f"step={step}.ckpt")]
            for make in (of_torchdata, seeded)
        ]
        assert follow[0] == follow[1]


def accelerator(**options: Any) -> accelerate.Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)  # One for the process: that of the program before.
    return accelerate.Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))


@pytest.mark.parametrize("make", [images, windows, of_torch, seeded])
def test_accelerate_keeps_a_loader_that_is_registered(make: Callable[[], Any], tmp_path: Path) -> None:
    """`save_state` in an epoch, and `load_state`, which sets PyTorch's generator too."""
    loader, program = make(), accelerator()
    program.register_for_checkpointing(loader)
    batches = iter(loader)
    list(itertools.islice(batches, 2))
    program.save_state(tmp_path / "checkpoint")
    expected = [*batches, *loader]
    torch.manual_seed(80)
    again, program = make(), accelerator()
    program.register_for_checkpointing(again)
    program.load_state(tmp_path / "checkpoint")
    assert_same([*again, *again], expected)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("shuffle", [False, True])
def test_accelerate_makes_torchdata_s_loader(shuffle: bool, tmp_path: Path) -> None:
    """Of the parts of ours, with `use_stateful_dataloader`: it stops and goes on as with PyTorch's own."""
    follow = []
    for number, (kind, data, options) in enumerate(
        (
            (Stock, Labelled(), {}),
            (DataLoader, TimeSeriesDataset(np.arange(float(COUNT)), np.arange(COUNT), 1), {"device": "cpu"}),
        )
    ):
        found = []
        for goes_on in (False, True):
            torch.manual_seed(6)
            program = accelerator(use_stateful_dataloader=True, use_seedable_sampler=True)
            loader = program.prepare(kind(data, 4, shuffle=shuffle, **options))
            if goes_on:
                program.load_state(tmp_path / str(number))
                found.append([*loader, *loader])
            else:
                batches = iter(loader)
                list(itertools.islice(batches, 2))
                program.save_state(tmp_path / str(number))
                found.append([*batches])
        assert_same(found[1][: STEPS - 2], found[0])
        follow.append([[part.tolist() for part in batch] for batch in found[1]])
    assert follow[0] == follow[1]
