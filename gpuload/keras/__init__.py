"""The door for programs written for Keras: change the import, keep the program.

`ImageDataGenerator` replaces `tf.keras.preprocessing.image.ImageDataGenerator`, with the same arguments, methods and
flows; with the same seed the flows give the same batches. `ImageSequence` replaces a `keras.utils.Sequence` that reads,
decodes, resizes and scales files. `timeseries_dataset_from_array` replaces the function of that name in `keras.utils`:
windows of an array, with targets. `dataset` makes a data set for `fit` from a `gpuload.Loader`. `model.fit`, `evaluate`
and `predict` take all of them, and get arrays of Keras' backend on the device where they were made.
"""

try:
    import keras  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "gpuload.keras needs Keras 3, which is not installed: pip install 'gpuload[tensorflow]'"
    ) from _error

from gpuload.keras.arrays import NumpyArrayIterator
from gpuload.keras.dataset import LoaderDataset, dataset
from gpuload.keras.files import DataFrameIterator, DirectoryIterator
from gpuload.keras.generator import ImageDataGenerator
from gpuload.keras.iterator import Iterator
from gpuload.keras.sequence import ImageSequence
from gpuload.keras.timeseries import WindowDataset, timeseries_dataset_from_array

__all__ = [
    "DataFrameIterator",
    "DirectoryIterator",
    "ImageDataGenerator",
    "ImageSequence",
    "Iterator",
    "LoaderDataset",
    "NumpyArrayIterator",
    "WindowDataset",
    "dataset",
    "timeseries_dataset_from_array",
]
