"""The door for programs written for PyTorch: change the import, keep the program.

`TimeSeriesDataset` replaces a `Dataset` of windows written by hand, in PyTorch's `DataLoader` or the one from here,
which has the same batches in the same order from the same seed, cut many at a time, on the GPU where there is one.
"""

try:
    import torch  # noqa: F401
except ImportError as _error:
    raise ImportError("gpuload.torch needs PyTorch, which is not installed: pip install 'gpuload[torch]'") from _error

from gpuload.torch.dataset import TimeSeriesDataset
from gpuload.torch.loader import DataLoader

__all__ = ["DataLoader", "TimeSeriesDataset"]
