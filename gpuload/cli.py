"""The command line: `gpuload demo`. What it needs beyond the library, Typer included, is imported when it is used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import gpuload

if TYPE_CHECKING:
    import typer

DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""What to install for a module, where the two have different names."""


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
        epochs: int = typer.Option(8, help="How often to go through the training images."),
        batch_size: int = typer.Option(64, help="Images in a batch."),
        device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
        engine: str = typer.Option("auto", help="What makes the batches: auto, dali or numpy."),
        seed: int = typer.Option(0, help="Of the order, the augmentation and the network's first weights."),
    ) -> None:
        """Train a small network on augmented digits, and show how it went.

        Writes the digits that come with scikit-learn as JPEG files, so nothing is downloaded; reads them through
        gpuload into PyTorch; tests what was learnt on images that were held out; and draws a picture of the
        augmentation. Takes less than a minute on two CPU cores.
        """
        from gpuload.demo import show

        show(out, epochs=epochs, batch_size=batch_size, device=device, engine=engine, seed=seed)

    return app


def one_line(error: Exception) -> str:
    """What went wrong, without line breaks; for a module that is not there, what to install."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("gpuload"):
        module = error.name.partition(".")[0]
        return f"this needs {DISTRIBUTIONS.get(module, module)}, which is not installed: pip install 'gpuload[demo]'"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
