"""The loaders that `benchmarks.windows` compares: each a generator that yields batches of windows for ever.

All of them deliver the same windows of the same series, in an order that is drawn anew for each epoch, with the label
at the end of each window. Each is written as its users write it; its docstring says what differs.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpuload
from benchmarks.jobs import Batches, endless, orders


@dataclass(frozen=True)
class Job:
    """The windows that every contender delivers: of values [rows, channels] float32 and labels [rows] int64."""

    values: np.ndarray
    labels: np.ndarray
    length: int
    batch_size: int
    device: str  # "cpu" or "cuda"
    dtype: str  # Of the windows that are delivered: "float32" or "bfloat16".

    @property
    def count(self) -> int:
        return len(self.values) - self.length + 1

    def orders(self) -> Iterator[np.ndarray]:
        """First rows of the windows of each batch, for ever."""
        return orders(self.count, self.batch_size, whole=False)

    def need_cpu(self) -> None:
        """Raise ImportError unless the job is float32 on the CPU."""
        if self.device != "cpu" or self.dtype != "float32":
            raise ImportError("it is measured on the CPU only, in float32")


def gpuload_torch(job: Job) -> Batches:
    """gpuload.torch.TimeSeriesDataset in gpuload.torch.DataLoader, on the GPU if there is one."""
    from gpuload.torch import DataLoader, TimeSeriesDataset

    dtype = None if job.dtype == "float32" else job.dtype
    dataset = TimeSeriesDataset(job.values, job.labels, job.length, dtype=dtype)
    return endless(DataLoader(dataset, batch_size=job.batch_size, shuffle=True, device=job.device))


def gpuload_numpy(job: Job) -> Batches:
    """gpuload.Loader with NumPy arrays, on the CPU."""
    job.need_cpu()
    source, window = gpuload.Series(job.values, job.labels), gpuload.Window(job.length)
    options = {"shuffle": True, "seed": 0, "device": "cpu", "framework": "numpy"}
    return endless(gpuload.Loader(source, window, batch_size=job.batch_size, **options))


def _data_loader(job: Job, workers: int, copies: bool = False) -> Batches:
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
    options = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": job.device != "cpu"}
    for batch in endless(torch.utils.data.DataLoader(dataset, job.batch_size, shuffle=True, **options)):
        inputs, targets = (tensor.to(job.device, non_blocking=True) for tensor in batch)
        yield inputs.to(getattr(torch, job.dtype)), targets


def stock(job: Job) -> Batches:
    """A Dataset of slices of tensors in PyTorch's DataLoader, in the same process."""
    return _data_loader(job, workers=0)


def stock_copies(job: Job) -> Batches:
    """The same over NumPy arrays, with torch.tensor(...) of each window and each label, as many write it."""
    return _data_loader(job, workers=0, copies=True)


def stock_workers(job: Job) -> Batches:
    """The first of these with worker processes: 2, or on a GPU 16."""
    return _data_loader(job, workers=2 if job.device == "cpu" else min(16, len(os.sched_getaffinity(0))))


def keras(job: Job) -> Batches:
    """keras.utils.timeseries_dataset_from_array, shuffled; on the CPU."""
    from keras.utils import timeseries_dataset_from_array

    job.need_cpu()
    targets, options = job.labels[job.length - 1 :], {"batch_size": job.batch_size, "shuffle": True, "seed": 0}
    return endless(timeseries_dataset_from_array(job.values, targets, job.length, **options))


def torch_indexing(job: Job) -> Batches:
    """PyTorch's advanced indexing with a matrix of row numbers."""
    import torch

    values, steps = torch.from_numpy(job.values).to(job.device), torch.arange(job.length, device=job.device)
    return _torch(job, lambda starts: values[starts[:, None] + steps])


def torch_unfold(job: Job) -> Batches:
    """PyTorch's unfold, indexed with the starts; channels come before time."""
    import torch

    return _torch(job, torch.from_numpy(job.values).to(job.device).unfold(0, job.length, 1).__getitem__)


def _torch(job: Job, cut: Callable[[Any], Any]) -> Batches:
    import torch

    labels, dtype = torch.from_numpy(job.labels).to(job.device), getattr(torch, job.dtype)
    while True:
        for starts in torch.randperm(job.count, device=job.device).split(job.batch_size):
            yield cut(starts).to(dtype), labels[starts + (job.length - 1)]


def numpy_take(job: Job) -> Batches:
    """np.take with a matrix of row numbers."""
    job.need_cpu()
    steps = np.arange(job.length)
    for starts in job.orders():
        yield job.values.take(starts[:, np.newaxis] + steps, axis=0), job.labels[starts + (job.length - 1)]


def sliding_window_view(job: Job) -> Batches:
    """NumPy's sliding_window_view(...)[starts], whole rows in a window, which is its fastest layout; without labels."""
    job.need_cpu()
    windows = np.lib.stride_tricks.sliding_window_view(job.values, (job.length, job.values.shape[1]))[:, 0]
    return ((windows[starts],) for starts in job.orders())


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
