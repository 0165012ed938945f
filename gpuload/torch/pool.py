"""The pool that cuts the pieces of an epoch, for gpuload's loader and for PyTorch's."""

from __future__ import annotations

from typing import Any

from torch.utils.data import default_collate, get_worker_info

from gpuload.run.engine import Engine
from gpuload.torch.dataset import Samples, cut_once
from gpuload.torch.order import Piece
from gpuload.windows.pool import WindowPool


class PiecePool(WindowPool):
    """Cuts pieces, which know the size of their batches."""

    def submit(self, engine: Engine, step: Piece) -> Piece:
        engine.submit(step.step)
        return step


class CutAndCollate:
    """The default `collate_fn`: cuts a batch of a `TimeSeriesDataset` on the loader's device.

    The loader itself does not need it. It serves code that makes PyTorch's own `DataLoader` from a loader's parts, as
    Accelerate does: batches are still made on the device. In worker processes, and for windows without targets and
    extras, which PyTorch stacks as a list of tensors, it is PyTorch's `default_collate`.
    """

    pool: PiecePool | None = None

    def __call__(self, samples: Any) -> Any:
        cuts = isinstance(samples, Samples) and samples.step is not None
        if self.pool is None or not cuts or get_worker_info() is not None:
            return default_collate(samples)
        return list(self.pool.delivered(cut_once(self.pool, samples.step), samples.step.batch_size)[0])

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Threads and GPU memory cannot be sent to another process.
