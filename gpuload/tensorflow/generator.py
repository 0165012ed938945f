"""`tf.data.Dataset.from_generator`, without its leak."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


def from_generator(method: Callable[[], Iterator[Any]], spec: Any) -> Any:
    """A dataset of what a bound method of some object yields, which lives as long as the dataset.

    TensorFlow keeps the function that it is given until the process ends. Ours knows the object only weakly, or every
    dataset would leave a loader behind, with its threads and its memory on the GPU.
    """
    weak = weakref.WeakMethod(method)

    def generator() -> Iterator[Any]:
        found = weak()
        if found is None:
            raise RuntimeError("this tf.data.Dataset was deleted: keep it for as long as anything reads from it")
        yield from found()

    dataset = tf.data.Dataset.from_generator(generator, output_signature=spec)
    dataset._gpuload = method  # Keeps the object alive. Datasets that are made from this one keep it in their turn.
    return dataset
