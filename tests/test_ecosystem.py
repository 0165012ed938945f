"""PyTorch's ecosystem, the real packages: Lightning, Accelerate and tqdm take gpuload's loaders as a DataLoader."""

import itertools
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader as Stock
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm

import gpuload
from gpuload.torch import DataLoader, TimeSeriesDataset

COUNT, BATCH = 10, 4
STEPS = 3  # Of an epoch; the last has 2 samples.
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 6, 3), dtype=np.uint8)
LENGTH = 3
VALUES = np.random.default_rng(1).random((COUNT + LENGTH - 1, 2), dtype=np.float32)
ENDS = np.arange(len(VALUES)) - (LENGTH - 1)  # The window's own number labels it.
SERIES = gpuload.Series(VALUES, targets=ENDS)


def images(device: str, shuffle: bool = True) -> gpuload.Loader:
    source = gpuload.ImageArray(IMAGES, labels=np.arange(COUNT))
    return gpuload.Loader(
        source, gpuload.Augment(), batch_size=BATCH, shuffle=shuffle, seed=7, framework="torch", device=device
    )


def photographs(root: Path, device: str, shuffle: bool = True) -> gpuload.Loader:
    """Augmented, so that epochs differ by more than their order."""
    source, transform = gpuload.ImageFolder(root), gpuload.Augment(size=(16, 16), hflip=0.5, brightness=(0.5, 1.5))
    return gpuload.Loader(
        source, transform, batch_size=BATCH, shuffle=shuffle, seed=7, framework="torch", device=device
    )


def windows(device: str, shuffle: bool = True) -> gpuload.Loader:
    return gpuload.Loader(
        SERIES,
        gpuload.Window(LENGTH),
        batch_size=BATCH,
        shuffle=shuffle,
        seed=7,
        framework="torch",
        device=device,
    )


def torch_windows(device: str, shuffle: bool = True) -> DataLoader:
    dataset = TimeSeriesDataset(VALUES, ENDS, LENGTH)
    return DataLoader(
        dataset, BATCH, shuffle=shuffle, generator=torch.Generator().manual_seed(7) if shuffle else None, device=device
    )


class Original(Dataset):
    """What users write."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> Any:
        return VALUES[number : number + LENGTH], number


def stock(device: str, shuffle: bool = True) -> Stock:
    """The program that is replaced."""
    return Stock(Original(), BATCH, shuffle=shuffle)


LOADERS = {"images": images, "windows": windows, "DataLoader": torch_windows}
Make = Callable[..., Any]


@pytest.fixture(params=LOADERS)
def make(request: pytest.FixtureRequest) -> Make:
    """Either kind of `gpuload.Loader`, and `gpuload.torch.DataLoader`: `make(device, shuffle)`."""
    return LOADERS[request.param]


def expected(make: Make, number: int) -> np.ndarray:
    """What sample `number` is, told by NumPy."""
    return IMAGES[number].transpose(2, 0, 1) if make is images else VALUES[number : number + LENGTH]


def same(ours: Any, theirs: Any) -> None:
    """Batches, equal to the bit and on the same device."""
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == len(b) == 2
        torch.testing.assert_close(list(a), list(b), rtol=0, atol=0)


def complete(make: Make, device: str, epoch: Any) -> None:
    """Every sample once, whole, on the device."""
    seen = []
    for inputs, labels in epoch:
        assert inputs.device.type == labels.device.type == device
        for sample, number in zip(inputs.cpu().numpy(), labels.tolist(), strict=True):
            np.testing.assert_array_equal(sample, expected(make, number))
            seen.append(number)
    assert sorted(seen) == list(range(COUNT))


def by_hand(loader: Any, epochs: int) -> list[list[Any]]:
    """What a program without any of these packages gets."""
    taken = []
    for epoch in range(epochs):
        if isinstance(loader, gpuload.Loader):
            loader.set_epoch(epoch)
        taken.append(list(loader))
    return taken


def numbers(batches: Any) -> list[int]:
    return [number for _, labels in batches for number in labels.tolist()]


class Model(lightning.LightningModule):
    """A linear model that writes down what it is given, and where that lies before and after Lightning places it."""

    def __init__(self, loader: Any):
        super().__init__()
        self.linear = nn.Linear(next(iter(loader))[0][0].numel(), 1)
        self.train_epochs: list[list[Any]] = []
        self.others: dict[str, list[Any]] = {"validation": [], "test": [], "predict": []}
        self.lay_at: list[int] = []
        self.lies_at: list[int] = []

    def on_train_epoch_start(self) -> None:
        self.train_epochs.append([])

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.lay_at += [tensor.data_ptr() for tensor in batch]
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert all(tensor.device == self.device for tensor in batch)
        self.lies_at += [tensor.data_ptr() for tensor in batch]
        return batch

    def _loss(self, batch: Any) -> torch.Tensor:
        inputs, labels = batch
        return nn.functional.mse_loss(self.linear(inputs.flatten(1) / 255).squeeze(1), labels.float())

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.train_epochs[-1].append(batch)
        return self._loss(batch)

    def validation_step(self, batch: Any, index: int) -> None:
        self.others["validation"].append(batch)
        self.log("loss", self._loss(batch))

    def test_step(self, batch: Any, index: int) -> None:
        self.others["test"].append(batch)

    def predict_step(self, batch: Any, index: int) -> torch.Tensor:
        self.others["predict"].append(batch)
        return batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def trainer(device: str, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **{"max_epochs": 2, "enable_progress_bar": False, **options},
    )


NO_VALIDATION = "ignore:You defined a `validation_step` but have no `val_dataloader`"  # Lightning leaves that step out.


def lightning_warnings(test: Any) -> Any:
    """What Lightning warns of with PyTorch's own DataLoader too, on one machine or another."""
    for message in (
        # Lightning's own call of PyTorch's pytree, seen with Lightning 2.6.6 and PyTorch 2.13.
        r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning:lightning\.pytorch\.utilities\._pytree",
        # A machine with a GPU, in the tests that run on the CPU.
        "ignore:GPU available but not used",
        # A machine with more than two CPUs: of every DataLoader that has no worker processes.
        r"ignore:The '\w+_dataloader' does not have many workers:UserWarning",
    ):
        test = pytest.mark.filterwarnings(message)(test)
    return test


@lightning_warnings
@pytest.mark.parametrize("bar", [False, True])
def test_lightning(make: Make, device: str, bar: bool) -> None:
    """All stages see the batches that a loop by hand sees, epoch by epoch, in the memory where they were made."""
    training = by_hand(make(device), 2)
    plain = list(make(device, shuffle=False))
    assert numbers(training[0]) != numbers(training[1])
    for epoch in (*training, plain):
        complete(make, device, epoch)

    model, it = Model(make(device, shuffle=False)), trainer(device, enable_progress_bar=bar)
    evaluated = make(device, shuffle=False)
    it.fit(model, make(device), evaluated)
    assert it.global_step == 2 * STEPS
    assert len(model.train_epochs) == 2
    for seen, epoch in zip(model.train_epochs, training, strict=True):
        same(seen, epoch)
    same(model.others["validation"], [*plain[:2], *plain, *plain])  # Lightning tries two batches first.
    assert it.callback_metrics["loss"] >= 0

    model.others["validation"].clear()
    it.validate(model, evaluated, verbose=False)
    it.test(model, evaluated, verbose=False)
    predicted = it.predict(model, evaluated)
    for batches in model.others.values():
        same(batches, plain)
    assert torch.cat(predicted).tolist() == list(range(COUNT))
    assert model.lies_at == model.lay_at


@lightning_warnings
@pytest.mark.parametrize("stop", [2, 0.67])
def test_lightning_breaks_epochs_off(make: Make, device: str, stop: float) -> None:
    """limit_train_batches, in numbers or as a share: the epoch after it is the next one nonetheless."""
    training = []
    loader = make(device)
    for epoch in range(2):
        if isinstance(loader, gpuload.Loader):
            loader.set_epoch(epoch)
        training.append(list(itertools.islice(loader, 2)))
    model = Model(make(device, shuffle=False))
    it = trainer(device, limit_train_batches=stop, limit_val_batches=1, num_sanity_val_steps=0)
    it.fit(model, make(device), make(device, shuffle=False))
    assert it.global_step == 4
    for seen, epoch in zip(model.train_epochs, training, strict=True):
        same(seen, epoch)
    assert numbers(model.others["validation"]) == [*range(BATCH)] * 2


@lightning_warnings
@pytest.mark.filterwarnings(NO_VALIDATION)
@pytest.mark.parametrize("make", [images, windows])
def test_lightning_goes_on_with_the_epoch_that_is_next(make: Make, device: str, tmp_path: Path) -> None:
    """From a checkpoint, in a new loader, and in a loader that was used before."""
    training = by_hand(make(device), 4)
    first = trainer(device)
    first.fit(Model(make(device)), make(device))
    first.save_checkpoint(tmp_path / "last.ckpt")
    used = make(device)
    list(itertools.chain(used, used, used))
    for loader in (make(device), used):
        model, it = Model(make(device)), trainer(device, max_epochs=4)
        it.fit(model, loader, ckpt_path=tmp_path / "last.ckpt")
        for seen, epoch in zip(model.train_epochs, training[2:], strict=True):
            same(seen, epoch)
        assert loader.epoch == 4


@lightning_warnings
@pytest.mark.filterwarnings(NO_VALIDATION)
def test_lightning_with_photographs(device: str, photos: Path) -> None:
    training = by_hand(photographs(photos, device), 2)
    model = Model(photographs(photos, device))
    trainer(device).fit(model, photographs(photos, device))
    for seen, epoch in zip(model.train_epochs, training, strict=True):
        same(seen, epoch)
    assert len(training[0]) == 6


@lightning_warnings
def test_lightning_makes_a_data_loader_again(device: str) -> None:
    """To predict, with a sampler of its own: of the same class, on the device and with all that was asked for."""
    loader = DataLoader(
        TimeSeriesDataset(VALUES, ENDS, LENGTH), BATCH, device=device, residency="host", prefetch=1, threads=1
    )
    it = trainer(device)
    assert torch.cat(it.predict(Model(loader), loader)).tolist() == list(range(COUNT))
    made = it.predict_dataloaders
    assert made is not loader
    assert type(made) is DataLoader
    for name in ("device", "engine", "residency", "prefetch", "threads"):
        assert getattr(made, name) == getattr(loader, name)


def test_lightning_warns_of_nothing_more(device: str) -> None:
    """Than of PyTorch's own DataLoader."""
    seen = []
    for make in (stock, *LOADERS.values()):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            it, model = trainer(device), Model(make("cpu"))
            it.fit(model, make(device), make(device, shuffle=False))
            it.predict(model, make(device, shuffle=False))
        seen.append({str(warning.message) for warning in caught})
    assert all(messages <= seen[0] for messages in seen[1:])


@pytest.fixture
def accelerator(device: str) -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)  # One for the process: that of the test before.
    yield Accelerator(cpu=device == "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_accelerate(make: Make, device: str, accelerator: Accelerator) -> None:
    """prepare, backward, gather_for_metrics: the batches of a loop by hand, two epochs of them."""
    training = by_hand(make(device), 2)
    linear = nn.Linear(training[0][0][0][0].numel(), 1)
    before = linear.weight.detach().clone()
    model, optimizer, loader = accelerator.prepare(linear, torch.optim.SGD(linear.parameters(), 1e-3), make(device))
    assert len(loader) == STEPS
    for epoch in training:
        seen, gathered = [], []
        for inputs, labels in loader:
            assert inputs.device.type == labels.device.type == accelerator.device.type == device
            optimizer.zero_grad()
            predicted = model(inputs.flatten(1) / 255).squeeze(1)
            accelerator.backward(nn.functional.mse_loss(predicted, labels.float()))
            optimizer.step()
            seen.append((inputs, labels))
            gathered += accelerator.gather_for_metrics(labels).tolist()
        same(seen, epoch)
        assert gathered == numbers(epoch)
    assert not torch.equal(linear.weight.detach().cpu(), before)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("drop_last", [False, True])
def test_accelerate_prepares_a_data_loader(
    device: str, accelerator: Accelerator, drop_last: bool, workers: int
) -> None:
    """It makes PyTorch's own of the parts: still the same batches as of the program that was replaced, epoch by epoch,
    cut where gpuload's loader would cut them, and some skipped."""
    seen = []
    for dataset, kind, options in (
        (Original(), Stock, {}),
        (TimeSeriesDataset(VALUES, ENDS, LENGTH), DataLoader, {"device": device}),
    ):
        loader = kind(
            dataset,
            BATCH,
            shuffle=True,
            drop_last=drop_last,
            num_workers=workers,
            generator=torch.Generator().manual_seed(3),
            **options,
        )
        prepared = accelerator.prepare(loader)
        epochs = [list(prepared), list(prepared), list(skip_first_batches(prepared, 1))]
        assert all(tensor.device.type == device for epoch in epochs for batch in epoch for tensor in batch)
        seen.append([batch for epoch in epochs for batch in epoch])
    same(seen[1], seen[0])
    if not workers:
        # What is under Accelerate's own loader, before that moves anything.
        assert all(tensor.device.type == device for tensor in next(iter(prepared.base_dataloader)))


@pytest.mark.parametrize("split", [False, True])
def test_accelerate_shares_a_data_loader_out(device: str, split: bool) -> None:
    """Among two processes: each gets what it gets of PyTorch's own, and together they get all."""
    shares = []
    for rank in range(2):
        both = []
        for dataset, kind, options in (
            (Original(), Stock, {}),
            (TimeSeriesDataset(VALUES, ENDS, LENGTH), DataLoader, {"device": device}),
        ):
            loader = kind(dataset, BATCH, shuffle=True, generator=torch.Generator().manual_seed(3), **options)
            both.append(
                list(
                    prepare_data_loader(
                        loader,
                        torch.device(device),
                        num_processes=2,
                        process_index=rank,
                        split_batches=split,
                        put_on_device=True,
                    )
                )
            )
        same(both[1], both[0])
        shares.append(both[1])
    assert set(numbers(itertools.chain(*shares))) == set(range(COUNT))
    assert len(shares[0]) == len(shares[1])


@pytest.mark.parametrize("extras", [(), ("start",)])
@pytest.mark.parametrize("labels", [None, ENDS])
def test_accelerate_with_windows_that_draw(
    device: str, accelerator: Accelerator, labels: Any, extras: tuple[str, ...]
) -> None:
    """Their random numbers are those of the same data set in PyTorch's loader, whatever a batch consists of."""
    seen = []
    for kind, options in ((Stock, {}), (DataLoader, {"device": device})):
        torch.manual_seed(5)
        dataset = TimeSeriesDataset(VALUES, labels, LENGTH, scaling=0.3, extras=extras)
        seen.append(list(accelerator.prepare(kind(dataset, BATCH, **options))))
    for theirs, ours in zip(*seen, strict=True):
        # A GPU multiplies and adds in one.
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    inputs = seen[1][0] if isinstance(seen[1][0], torch.Tensor) else seen[1][0][0]
    assert not np.allclose(inputs[0].cpu(), VALUES[:LENGTH])


def test_tqdm(make: Make, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    loader, again = make(device), make(device)
    for _ in range(2):
        bar = tqdm(loader)
        assert bar.total == len(loader) == STEPS
        same(bar, again)
        assert bar.n == STEPS
        bar = tqdm(enumerate(loader), total=len(loader))
        assert [index for index, _ in bar] == list(range(STEPS))
        list(again)
    assert "3/3" in capsys.readouterr().err


def test_attributes(make: Make, device: str) -> None:
    """What programs read off a DataLoader."""
    loader = make(device)
    assert len(loader.dataset) == COUNT
    assert loader.batch_size == BATCH
    assert len(loader) == STEPS
    assert len(loader.sampler) == COUNT
    assert not isinstance(loader.sampler, DistributedSampler)
    inputs, labels = next(iter(loader))
    assert len(inputs) == len(labels) == BATCH
    endless = numbers(itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), 2 * STEPS))
    assert sorted(endless) == sorted([*range(COUNT)] * 2)
    cycled = numbers(itertools.islice(itertools.cycle(loader), 2 * STEPS))
    assert cycled[:COUNT] == cycled[COUNT:]


@pytest.mark.parametrize("make", [images, windows])
def test_set_epoch_at_the_sampler(make: Make, device: str) -> None:
    """As with a DistributedSampler: before an epoch, or between iter() and the first batch."""
    training = by_hand(make(device), 3)
    loader = make(device)
    for epoch in (0, 1, 2, 1):
        loader.sampler.set_epoch(epoch)
        assert list(loader.sampler) == numbers(training[epoch])
        same(loader, training[epoch])
    batches = iter(loader)
    loader.sampler.set_epoch(0)
    same(batches, training[0])
    iter(loader)  # Takes no epoch where nothing is taken of it.
    same(loader, training[1])


def test_a_compiled_model(make: Make, device: str) -> None:
    batches = list(make(device, shuffle=False))
    model = nn.Sequential(nn.Flatten(), nn.Linear(batches[0][0][0].numel(), 2)).to(device)
    compiled = torch.compile(model, backend="eager")
    for inputs, _ in make(device, shuffle=False):
        # The same operations on the same numbers, without a compiler's own arithmetic.
        torch.testing.assert_close(compiled(inputs), model(inputs), rtol=0, atol=0)


class Prefetcher:
    """The idiom of NVIDIA's examples: the next batch is taken, and made floats of, on a stream beside the model's."""

    def __init__(self, loader: Any):
        self.batches, self.stream = iter(loader), torch.cuda.Stream()
        self.preload()

    def preload(self) -> None:
        with torch.cuda.stream(self.stream):
            self.next = next(self.batches, None)
            if self.next is not None:
                self.next = [tensor.cuda(non_blocking=True).double() for tensor in self.next]

    def __iter__(self) -> Iterator[Any]:
        while self.next is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
            batch = self.next
            for tensor in batch:
                tensor.record_stream(torch.cuda.current_stream())
            self.preload()
            yield batch


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_prefetched_on_a_stream(make: Make, device: str) -> None:
    training = by_hand(make(device), 2)
    loader = make(device)
    for epoch in training:
        same(Prefetcher(loader), [(inputs.double(), labels.double()) for inputs, labels in epoch])


@pytest.mark.parametrize("layout", [None, "CHW"])
def test_channels_last(device: str, photos: Path, layout: str | None) -> None:
    """The same images in PyTorch's memory format, from either source, and a conv net takes them."""
    source = gpuload.ImageArray(IMAGES, labels=np.arange(COUNT))
    for pictures, size in ((source, None), (gpuload.ImageFolder(photos), (20, 16))):
        transform = gpuload.Augment(size=size, hflip=0.5, zoom=0.2, rescale=1 / 255, layout=layout)
        options = {"batch_size": BATCH, "seed": 1, "framework": "torch", "device": device}
        plain = gpuload.Loader(pictures, transform, **options)
        last = gpuload.Loader(pictures, transform, channels_last=True, **options)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(device)
        for _ in range(2):
            for (ours, labels), (theirs, same_labels) in zip(last, plain, strict=True):
                assert ours.is_contiguous(memory_format=torch.channels_last)
                assert theirs.is_contiguous()
                # The engines warp in the layout that they are asked for: to a rounding of float32.
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
                assert torch.equal(labels, same_labels)
                found = model.to(memory_format=torch.channels_last)(ours)
                # Convolutions of another memory format add up in another order, on a GPU numbers of 10 bits (TF32).
                torch.testing.assert_close(found, model(theirs), rtol=1e-4, atol=1e-2 if device == "cuda" else 1e-5)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("images", {"framework": "numpy"}, "not for framework='numpy' with layout=None: leave it out"),
        ("images", {"layout": "HWC"}, "not for framework='torch' with layout='HWC': leave it out"),
        ("series", {}, "channels_last=True is for images, not for a Series: leave it out"),
    ],
)
def test_channels_last_where_there_are_none(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="channels_last=True is .*" + message.removeprefix("channels_last=True is ")):
        gpuload.Loader(
            SERIES if source == "series" else gpuload.ImageArray(IMAGES),
            gpuload.Window(LENGTH) if source == "series" else gpuload.Augment(layout=options.get("layout")),
            batch_size=BATCH,
            framework=options.get("framework", "torch"),
            channels_last=True,
            device="cpu",
        )


def test_one_iterator_in_two_threads() -> None:
    """The second is told so while the first waits for its batch, and the first gets it."""
    inside, go_on = threading.Event(), threading.Event()

    def function(image: np.ndarray) -> np.ndarray:
        inside.set()
        assert go_on.wait(60)
        return image

    source = gpuload.ImageArray(IMAGES, labels=np.arange(COUNT))
    loader = gpuload.Loader(
        source, gpuload.Augment(function=function), batch_size=BATCH, framework="torch", device="cpu", engine="numpy"
    )
    batches = iter(loader)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(next, batches)
        try:
            assert inside.wait(60)
            with pytest.raises(RuntimeError, match="this iterator is being consumed in another thread: make one for"):
                next(batches)
        finally:
            go_on.set()
        assert first.result()[1].tolist() == list(range(BATCH))
    assert numbers(batches) == list(range(BATCH, COUNT))
    assert numbers(loader) == list(range(COUNT))
