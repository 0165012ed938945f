"""The door for TensorFlow: `dataset(loader)` is a `tf.data.Dataset` of a loader's batches.

For batches that stay on the GPU, in a training loop of one's own: `gpuload.Loader(..., framework="tensorflow")`.
"""

try:
    import tensorflow  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "gpuload.tensorflow needs TensorFlow, which is not installed: pip install 'gpuload[tensorflow]'"
    ) from _error

from gpuload.tensorflow.data import dataset

__all__ = ["dataset"]
