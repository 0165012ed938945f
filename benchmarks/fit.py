"""Keras' fit over gpuload beside a loop written by hand around the same loader, on each of Keras' backends.

    python -m benchmarks.fit                        a small convolutional network on photographs of 64 x 64
    python -m benchmarks.fit --backends torch --device cuda

Each backend has a process of its own. There the two take turns in training the same model, by the same operations,
without callbacks and logs; the loop is written as people write it for that backend. A round is one call of fit and as
many epochs of the loop. The ratio is the time of fit divided by the loop's in the same round.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import program
from benchmarks.jobs import BATCH_SIZE
from benchmarks.photos import data_folder
from benchmarks.program import Report

SIZE = 64


def make_model() -> Any:
    """A network of three convolutions, compiled."""
    import keras

    layers = keras.layers
    convolutions = [layers.Conv2D(filters, 3, 2, activation="relu") for filters in (16, 32, 64)]
    ends = [layers.GlobalAveragePooling2D(), layers.Dense(8)]
    model = keras.Sequential([layers.Input((SIZE, SIZE, 3)), *convolutions, *ends])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    return model


def torch_loop(model: Any, loader: Any) -> Callable[[], None]:
    """Autograd."""

    def epoch() -> None:
        model.train()
        variables = model.trainable_variables
        for x, y in loader:
            model.zero_grad()
            model.loss(y, model(x, training=True)).backward()
            model.optimizer.apply([variable.value.grad for variable in variables], variables)

    return epoch


def jax_loop(model: Any, loader: Any) -> Callable[[], None]:
    """A jitted function of the state."""
    import jax

    def loss_of(trainable: Any, other: Any, x: Any, y: Any) -> Any:
        outputs, other = model.stateless_call(trainable, other, x, training=True)
        return model.loss(y, outputs), other

    @jax.jit
    def step(state: Any, x: Any, y: Any) -> Any:
        trainable, other, optimizer = state
        (_, other), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable, other, x, y)
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
        return trainable, other, optimizer

    def epoch() -> None:
        groups = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
        state = tuple([variable.value for variable in variables] for variables in groups)
        for x, y in loader:
            state = step(state, x, y)
        jax.block_until_ready(state)

    return epoch


def tensorflow_loop(model: Any, loader: Any) -> Callable[[], None]:
    """A tf.function over the data set."""
    import tensorflow as tf

    @tf.function
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = model.loss(y, model(x, training=True))
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    def epoch() -> None:
        for x, y in loader:
            step(x, y)

    return epoch


LOOPS = {"torch": torch_loop, "jax": jax_loop, "tensorflow": tensorflow_loop}


def measure(backend: str, folder: Path, number: int, epochs: int, device: str) -> Report:
    """Times of one backend, in this process, which has imported no other one."""
    import gpuload.keras

    options = {"batch_size": BATCH_SIZE, "shuffle": True, "seed": 0, "device": device}
    transform = gpuload.Augment(size=(SIZE, SIZE), shear=10, zoom=0.2, hflip=0.5, rescale=1 / 255, layout="HWC")
    loader = gpuload.Loader(gpuload.ImageFolder(folder), transform, framework=backend, last_batch="drop", **options)
    model, by_hand = make_model(), make_model()
    batches = gpuload.keras.dataset(loader.replace())
    loop = LOOPS[backend](by_hand, gpuload.keras.dataset(loader.replace()) if backend == "tensorflow" else loader)
    tasks = {
        "loop": lambda: program.timed(lambda: [loop() for _ in range(epochs)])[0],
        "fit": lambda: program.timed(lambda: model.fit(batches, epochs=epochs, verbose=0, shuffle=False))[0],
    }
    for task in tasks.values():
        task()
    seconds = {name: program.spread(values) for name, values in program.rounds(number, tasks).items()}
    row = {"backend": backend, "batches": epochs * len(loader), "seconds": seconds}
    return row | {"ratio": program.ratio(seconds["fit"], seconds["loop"])}


def main(*arguments: str) -> None:
    asked = program.options(__doc__, arguments, rounds=9, epochs=3, data="1000", device="cpu", backends="all", out=None)
    rows, folder = [], data_folder(asked.data)
    for name in program.chosen(asked.backends, LOOPS, "--backends"):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is left out: it is not installed")
            continue
        os.environ["KERAS_BACKEND"] = name  # The new process inherits it.
        rows += program.in_processes(measure, (name, folder, asked.rounds, asked.epochs, asked.device))
    program.finish(asked, "fit", batch_size=BATCH_SIZE, rows=rows)


if __name__ == "__main__":
    main()
