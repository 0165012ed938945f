"""The commands and their options. Each command imports its packages when it runs, so that --help is quick."""

from __future__ import annotations

from pathlib import Path

import typer

import gpuload

IMAGE_EPOCHS, SERIES_EPOCHS = 8, 15
"""Default number of epochs of each demo."""
DEVICES = "auto, cpu, cuda or cuda:N."

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        print(f"gpuload {gpuload.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Load, augment and deliver training batches, on a GPU or on the CPU."""


@app.command()
def demo(
    out: Path = typer.Option(
        Path("gpuload-demo"), file_okay=False, help="Folder for the images and the picture; its images are reused."
    ),
    series: bool = typer.Option(False, "--series", help="Forecast time series instead of classifying images."),
    epochs: int | None = typer.Option(
        None, help="Passes over the training data.", show_default=f"{IMAGE_EPOCHS}, with --series {SERIES_EPOCHS}"
    ),
    batch_size: int = typer.Option(64, help="Images or windows per batch."),
    device: str = typer.Option("auto", help=DEVICES),
    engine: str = typer.Option("auto", help="auto, cupy, numpy, or for images numba."),
    seed: int = typer.Option(0, help="Seed of the order, the augmentation and the network's first weights."),
) -> None:
    """Train a small network on augmented digits and print accuracy and speed.

    Writes the digits that come with scikit-learn as JPEG files (no download), trains a PyTorch network on batches from
    gpuload, tests it on held-out images, and draws what the augmentation does. Takes less than a minute on two CPU
    cores.

    With --series, trains one network each on two time series that come with statsmodels, weekly CO2 in the air and the
    yearly sunspot number. Compares their forecasts of held-out years with two naive ones, and draws them. Takes a few
    seconds.
    """
    if series:
        from gpuload.demo.series import show
    else:
        from gpuload.demo.images import show
    if epochs is None:
        epochs = SERIES_EPOCHS if series else IMAGE_EPOCHS
    show(out, epochs=epochs, batch_size=batch_size, device=device, engine=engine, seed=seed)


@app.command()
def tune(
    directory: Path = typer.Argument(exists=True, file_okay=False, help="Folder with one folder of images per class."),
    size: int = typer.Option(224, min=1, help="Height and width to resize to, in pixels."),
    batch_size: int = typer.Option(64, min=1, help="Images per batch."),
    device: str = typer.Option("auto", help=DEVICES),
    rounds: int = typer.Option(3, min=1, help="Number of times that each setting is timed."),
    seconds: float = typer.Option(2.0, help="Seconds that each timing takes."),
) -> None:
    """Find the numbers of threads and of prefetched batches that decode images fastest on this machine.

    Prints the speed of each setting, the fastest first, and the arguments for gpuload.Loader.
    """
    from gpuload.cli.tune import show

    show(directory, size=size, batch_size=batch_size, device=device, rounds=rounds, seconds=seconds)
