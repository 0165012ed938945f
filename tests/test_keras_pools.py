"""The pools of a data set: each has its framework when it is made, and engines allocate in that memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import pytest

from gpuload.core.device import Device
from gpuload.delivery import FRAMEWORKS, Allocator, Framework
from gpuload.keras.prefetch import PrefetchedDataset
from gpuload.run.pool import EnginePool

if keras.backend.backend() != "torch":
    pytest.skip("the other backends' arrays cannot be written", allow_module_level=True)
import torch

GPU, BATCHES = Device(0), 3
HOST = Allocator(lambda shape, dtype, device: np.empty(shape, dtype), lambda array: array.ctypes.data)


def refused(*arguments: Any) -> Any:
    raise AssertionError("an engine's array was of another framework, and had to be converted")


# PyTorch as on a GPU, except that its memory is the host's.
TORCH = replace(
    FRAMEWORKS["torch"],
    allocator=Allocator(lambda shape, dtype, device: torch.empty(shape, dtype=getattr(torch, dtype)), torch.numel),
    convert=refused,
    stream=None,
)


@dataclass
class Step:
    number: int
    batch_size: int = 2


class Engine:
    """Fills arrays [2, 1] with the number of the batch. Like the CUDA engines it takes an allocator once."""

    bytes_read, alive = 0, True

    def __init__(self, allocator: Allocator):
        self.allocator = allocator
        self.steps: list[Step] = []

    @property
    def pending(self) -> int:
        return len(self.steps)

    def submit(self, step: Step) -> None:
        self.steps.append(step)

    def result(self, stream: int | None = None) -> Any:
        made = self.allocator.empty((2, 1), "float32", GPU)
        made[:] = self.steps.pop(0).number
        return made

    def discard(self) -> None:
        self.steps.clear()

    def close(self) -> None:
        self.discard()


class Pool(EnginePool):
    engine = "small"

    def __len__(self) -> int:
        return 2 * BATCHES

    def open_engine(self) -> Engine:
        return Engine(self.framework.allocator or HOST)

    def plan(self, *arguments: Any, numbers: Iterable[int] | None = None) -> Iterator[Step]:
        return map(Step, numbers or range(BATCHES))

    def batches(self, step: Step, made: Any) -> list[Any]:
        return [(made, made)]


class Numbers(PrefetchedDataset):
    def __len__(self) -> int:
        return BATCHES

    def _open(self, framework: Callable[[Device], Framework]) -> Pool:
        return Pool(device=GPU, framework=framework(GPU), batch_size=2, prefetch=2, threads=None)

    def _visits(self, numbers: Sequence[int]) -> Iterator[Step]:
        return map(Step, numbers)

    def _deliver(self, pool: Pool, visit: Step, made: Any) -> Any:
        return pool.batches(visit, made)[0]


class Recorder(keras.Sequential):
    taken: tuple[Any, ...] = ()

    def train_step(self, data: Any) -> Any:
        self.taken += (data[0],)
        return super().train_step(data)


def test_framework_is_settled_when_a_pool_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("backend", "prefetch"):
        monkeypatch.setattr(f"gpuload.keras.{module}.backend_framework", lambda device: TORCH)
    data = Numbers()
    assert type(data[0][0]) is np.ndarray
    data.on_epoch_begin()
    assert [data.num_batches, type(data[0][0]), type(data[1][0])] == [BATCHES, torch.Tensor, torch.Tensor]
    data.on_epoch_end()
    assert type(data[0][0]) is np.ndarray
    model = Recorder([keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(data, epochs=2, verbose=0)
    assert {type(batch) for batch in model.taken} == {torch.Tensor}
    assert sorted(int(batch[0]) for batch in model.taken) == [0, 0, 1, 1, 2, 2]
    assert [(type(inputs), inputs[0, 0]) for inputs, _ in (data[0], data[2])] == [(np.ndarray, 0), (np.ndarray, 2)]
