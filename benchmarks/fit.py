"""Keras' fit over gpuload beside a loop written by hand around the same loader, on each of Keras' backends.

    python -m benchmarks.fit                        a small convolutional network on photographs of 64 x 64
    python -m benchmarks.fit --backends torch --device cuda

Each backend has a process of its own. There the two take turns in training the same model, by the same operations: the
loop does what people write for that backend (autograd; a jitted function of the state; a tf.function over the data
set), without callbacks and without logs. A round is one call of fit and as many epochs of the loop; `fit` is the time
of the one as a multiple of the other's in the same round.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.photos import photos
from benchmarks.report import environment, rounds, save, spread

BACKENDS = ("torch", "jax", "tensorflow")
BATCH_SIZE, SIZE = 32, 64


def make_model() -> Any:
    """A network of three convolutions, compiled."""
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((SIZE, SIZE, 3)),
            layers.Conv2D(16, 3, 2, activation="relu"),
            layers.Conv2D(32, 3, 2, activation="relu"),
            layers.Conv2D(64, 3, 2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(8),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
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
        state: Any = tuple(
            [variable.value for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
        )
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


def measure(backend: str, folder: Path, number: int, epochs: int, device: str) -> dict[str, Any]:
    """The times of so many epochs, in this process."""
    import gpuload
    import gpuload.keras

    options: dict[str, Any] = {"batch_size": BATCH_SIZE, "shuffle": True, "seed": 0, "device": device}
    transform = gpuload.Augment(size=(SIZE, SIZE), shear=10, zoom=0.2, hflip=0.5, rescale=1 / 255, layout="HWC")
    loader = gpuload.Loader(gpuload.ImageFolder(folder), transform, framework=backend, last_batch="drop", **options)
    model, by_hand = make_model(), make_model()
    model.optimizer.build(model.trainable_variables)
    by_hand.optimizer.build(by_hand.trainable_variables)
    batches = gpuload.keras.dataset(loader.replace())
    fed = gpuload.keras.dataset(loader.replace()) if backend == "tensorflow" else loader

    def timed(epoch: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            epoch()
            return time.perf_counter() - start

        return run

    loop = LOOPS[backend](by_hand, fed)
    tasks = {
        "loop": timed(lambda: [loop() for _ in range(epochs)]),
        "fit": timed(lambda: model.fit(batches, epochs=epochs, verbose=0, shuffle=False)),
    }
    for task in tasks.values():
        task()
    times = rounds(number, tasks)
    ratio = spread(fit / loop for fit, loop in zip(times["fit"], times["loop"], strict=True))
    seconds = {name: spread(values) for name, values in times.items()}
    return {"backend": backend, "batches": epochs * len(loader), "seconds": seconds, "ratio": ratio}


def main(
    number: Annotated[int, typer.Option("--rounds", min=1)] = 9,
    epochs: Annotated[int, typer.Option(min=1, help="in a round")] = 3,
    count: Annotated[int, typer.Option(min=BATCH_SIZE, help="photographs to make where there is no --data")] = 1000,
    data: Annotated[Path | None, typer.Option(help="a folder of class folders; default: benchmarks.photos")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    backends: Annotated[str, typer.Option(help=", ".join(BACKENDS))] = ",".join(BACKENDS),
    here: Annotated[bool, typer.Option(help="measure the one backend in this process, and print JSON")] = False,
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    names = backends.split(",")
    if unknown := set(names) - set(BACKENDS):
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {', '.join(BACKENDS)}", param_hint="--backends")
    folder = data or photos(count)
    if here:
        row = measure(names[0], folder, number, epochs, device)
        print(json.dumps(row))
        return row
    rows = []
    for name in names:
        if importlib.util.find_spec(name) is None:
            print(f"{name} is left out: it is not installed")
            continue
        command = [sys.executable, "-m", "benchmarks.fit", "--here", "--backends", name, "--device", device]
        command += ["--rounds", str(number), "--epochs", str(epochs), "--data", str(folder)]
        environ = {**os.environ, "KERAS_BACKEND": name, "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    report = {
        "benchmark": "fit",
        "environment": environment(device),
        "batch_size": BATCH_SIZE,
        "rounds": number,
        "rows": rows,
    }
    table = Table(title=f"fit beside the same loop by hand, {report['environment']['device_name']}")
    table.add_column("backend")
    for heading in ("loop, ms a batch", "fit, ms a batch", "fit", "least", "greatest"):
        table.add_column(heading, justify="right")
    for row in rows:
        each = (f"{1000 * row['seconds'][name]['median'] / row['batches']:.2f}" for name in ("loop", "fit"))
        ratios = (f"{row['ratio'][key]:.3f} ×" for key in ("median", "least", "greatest"))
        table.add_row(row["backend"], *each, *ratios)
    Console().print(table)
    print(f"written to {save(report, out)}")
    return report


if __name__ == "__main__":
    typer.run(main)
