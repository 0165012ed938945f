"""The command line: `gpuload demo` and `gpuload tune`.

What they need beyond the library, Typer included, is imported when it is used.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpuload

if TYPE_CHECKING:
    import typer

DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""What to install for a module, where the two have different names."""


IMAGE_EPOCHS, SERIES_EPOCHS = 8, 15
"""How often the demos go through their training data, where nothing is said."""


def main() -> None:
    """The program `gpuload`. A mistake of its user ends it with one line on stderr and exit code 1."""
    try:
        application()(prog_name="gpuload")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"gpuload: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


def application() -> typer.Typer:
    """All commands."""
    import typer

    app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

    def print_version(wanted: bool) -> None:
        if wanted:
            print(f"gpuload {gpuload.__version__}")
            raise typer.Exit

    @app.callback()
    def options(
        version: bool = typer.Option(
            False, "--version", callback=print_version, is_eager=True, help="Print the version and leave."
        ),
    ) -> None:
        """Load, augment and deliver training batches where the model is, on the GPU or without one."""

    @app.command()
    def demo(
        out: Path = typer.Option(
            Path("gpuload-demo"),
            file_okay=False,
            help="Folder for the images and the picture; images in it are reused.",
        ),
        series: bool = typer.Option(False, "--series", help="Forecast time series, in place of reading images."),
        epochs: int | None = typer.Option(
            None,
            help="How often to go through the training data.",
            show_default=f"{IMAGE_EPOCHS}, with --series {SERIES_EPOCHS}",
        ),
        batch_size: int = typer.Option(64, help="Images or windows in a batch."),
        device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
        engine: str = typer.Option(
            "auto", help="What makes the batches: auto, numpy, or dali for images, cupy for series."
        ),
        seed: int = typer.Option(0, help="Of the order, the augmentation and the network's first weights."),
    ) -> None:
        """Train a small network on augmented digits, and show how it went.

        Writes the digits that come with scikit-learn as JPEG files, so nothing is downloaded; reads them through
        gpuload into PyTorch; tests what was learnt on images that were held out; and draws a picture of the
        augmentation. Takes less than a minute on two CPU cores.

        With --series: trains a network on windows of each of two time series that come with statsmodels, weekly CO2
        in the air and the yearly sunspot number; tests its forecasts, and two naive ones, on years that were held
        out; and draws them. Takes a few seconds.
        """
        options: dict[str, Any] = {"batch_size": batch_size, "device": device, "engine": engine, "seed": seed}
        if series:
            from gpuload.demo.series import show as show_series

            show_series(out, epochs=SERIES_EPOCHS if epochs is None else epochs, **options)
        else:
            from gpuload.demo.images import show as show_images

            show_images(out, epochs=IMAGE_EPOCHS if epochs is None else epochs, **options)

    @app.command()
    def tune(
        directory: Path = typer.Argument(exists=True, file_okay=False, help="Images in folders, one a class."),
        size: int = typer.Option(224, min=1, help="Height and width that they are resized to."),
        batch_size: int = typer.Option(64, min=1, help="Images in a batch."),
        device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
        rounds: int = typer.Option(3, min=1, help="How often each setting is tried."),
        seconds: float = typer.Option(2.0, help="For how long, each time."),
    ) -> None:
        """Try how many threads, and how many batches ahead, decode the most images on this machine.

        Shows all that was tried, the fastest first, and the arguments for gpuload.Loader.
        """
        from gpuload.cli.tune import show

        show(directory, size=size, batch_size=batch_size, device=device, rounds=rounds, seconds=seconds)

    return app


def one_line(error: Exception) -> str:
    """What went wrong, without line breaks; for a module that is not there, what to install."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("gpuload"):
        module = error.name.partition(".")[0]
        return f"this needs {DISTRIBUTIONS.get(module, module)}, which is not installed: pip install 'gpuload[demo]'"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
