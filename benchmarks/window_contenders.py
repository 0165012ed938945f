"""The loaders that `benchmarks.windows` compares: each a generator that yields batches of windows for ever.

All of them deliver the same windows of the same series, in an order that is drawn anew for each epoch, with the label
at the end of each window. Each is written as its users write it; its docstring says what differs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Job:
    """What every contender is asked for."""

    values: np.ndarray
    """[rows, channels] float32."""
    labels: np.ndarray
    """[rows] int64."""
    length: int
    batch_size: int
    device: str
    """ "cpu" or "cuda"."""
    dtype: str
    """Of what is delivered: "float32" or "bfloat16"."""

    @property
    def count(self) -> int:
        """How many windows there are."""
        return len(self.values) - self.length + 1


def _orders(job: Job) -> Iterator[np.ndarray]:
    """The first rows of a batch's windows."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(job.count)
        for first in range(0, job.count, job.batch_size):
            yield order[first : first + job.batch_size]


def gpuload_torch(job: Job) -> Iterator[Any]:
    """gpuload.torch.TimeSeriesDataset in gpuload.torch.DataLoader, on the GPU if there is one."""
    from gpuload.torch import DataLoader, TimeSeriesDataset

    dtype: Any = None if job.dtype == "float32" else job.dtype
    dataset = TimeSeriesDataset(job.values, job.labels, job.length, dtype=dtype)
    loader = DataLoader(dataset, batch_size=job.batch_size, shuffle=True, device=job.device)
    while True:
        yield from loader


def gpuload_numpy(job: Job) -> Iterator[Any]:
    """gpuload.Loader with NumPy arrays, on the CPU."""
    import gpuload

    if job.device != "cpu" or job.dtype != "float32":
        raise ImportError("it is measured on the CPU only, in float32")
    loader = gpuload.Loader(
        gpuload.Series(job.values, job.labels),
        gpuload.Window(job.length),
        batch_size=job.batch_size,
        shuffle=True,
        seed=0,
        device="cpu",
        framework="numpy",
    )
    while True:
        yield from loader


def _data_loader(job: Job, workers: int, copies: bool = False) -> Iterator[Any]:
    import torch

    class TimeSeriesDataset(torch.utils.data.Dataset[Any]):
        def __init__(self, data: Any, labels: Any, seq_length: int):
            self.data, self.labels, self.seq_length = data, labels, seq_length

        def __len__(self) -> int:
            return len(self.data) - self.seq_length + 1

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            end = index + self.seq_length
            if copies:
                return torch.tensor(self.data[index:end]), torch.tensor(self.labels[end - 1])
            return self.data[index:end], self.labels[end - 1]

    data, labels = (array if copies else torch.from_numpy(array) for array in (job.values, job.labels))
    dataset = TimeSeriesDataset(data, labels, job.length)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=job.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=job.device != "cpu",
    )
    while True:
        for inputs, targets in loader:
            yield _sent(job, inputs), _sent(job, targets, cast=False)


def _sent(job: Job, tensor: Any, cast: bool = True) -> Any:
    import torch

    if job.device != "cpu":
        tensor = tensor.to(job.device, non_blocking=True)
    return tensor.to(torch.bfloat16) if cast and job.dtype == "bfloat16" else tensor


def stock(job: Job) -> Iterator[Any]:
    """A Dataset of slices of tensors in PyTorch's DataLoader, in the same process."""
    yield from _data_loader(job, workers=0)


def stock_copies(job: Job) -> Iterator[Any]:
    """The same over NumPy arrays, with torch.tensor(...) of each window and each label, as many write it."""
    yield from _data_loader(job, workers=0, copies=True)


def stock_workers(job: Job) -> Iterator[Any]:
    """The first of these with worker processes: 2, or on a GPU 16."""
    yield from _data_loader(job, workers=2 if job.device == "cpu" else min(16, len(os.sched_getaffinity(0))))


def keras(job: Job) -> Iterator[Any]:
    """keras.utils.timeseries_dataset_from_array, shuffled; on the CPU."""
    from keras.utils import timeseries_dataset_from_array

    if job.device != "cpu" or job.dtype != "float32":
        raise ImportError("it is measured on the CPU only, in float32")
    targets = job.labels[job.length - 1 :]
    dataset = timeseries_dataset_from_array(
        job.values, targets, job.length, batch_size=job.batch_size, shuffle=True, seed=0
    )
    while True:
        yield from dataset


def torch_indexing(job: Job) -> Iterator[Any]:
    """PyTorch's advanced indexing with a matrix of row numbers."""
    import torch

    values, labels = torch.from_numpy(job.values).to(job.device), torch.from_numpy(job.labels).to(job.device)
    steps = torch.arange(job.length, device=job.device)
    while True:
        order = torch.randperm(job.count, device=job.device)
        for starts in order.split(job.batch_size):
            inputs = values[starts[:, None] + steps]
            yield inputs.to(getattr(torch, job.dtype)), labels[starts + (job.length - 1)]


def torch_unfold(job: Job) -> Iterator[Any]:
    """PyTorch's unfold, indexed with the starts; channels come before time."""
    import torch

    values, labels = torch.from_numpy(job.values).to(job.device), torch.from_numpy(job.labels).to(job.device)
    windows = values.unfold(0, job.length, 1)
    while True:
        order = torch.randperm(job.count, device=job.device)
        for starts in order.split(job.batch_size):
            yield windows[starts].to(getattr(torch, job.dtype)), labels[starts + (job.length - 1)]


def numpy_take(job: Job) -> Iterator[Any]:
    """np.take with a matrix of row numbers."""
    _on_cpu(job)
    steps = np.arange(job.length)
    for starts in _orders(job):
        yield job.values.take(starts[:, np.newaxis] + steps, axis=0), job.labels[starts + (job.length - 1)]


def sliding_window_view(job: Job) -> Iterator[Any]:
    """NumPy's sliding_window_view(...)[starts], whole rows in a window, which is its fastest layout; without labels."""
    _on_cpu(job)
    channels = job.values.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(job.values, (job.length, channels))[:, 0]
    for starts in _orders(job):
        yield (windows[starts],)


def _on_cpu(job: Job) -> None:
    if job.device != "cpu" or job.dtype != "float32":
        raise ImportError("NumPy has neither a GPU nor bfloat16")


CONTENDERS = {
    "gpuload.torch": gpuload_torch,
    "gpuload.Loader": gpuload_numpy,
    "DataLoader": stock,
    "DataLoader, copies": stock_copies,
    "DataLoader, workers": stock_workers,
    "keras": keras,
    "torch index": torch_indexing,
    "torch unfold": torch_unfold,
    "np.take": numpy_take,
    "sliding_window_view": sliding_window_view,
}
