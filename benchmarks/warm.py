"""Images per second from the second epoch on: gpuload's cache beside what others do with images that were decoded.

    python -m benchmarks.warm                    photographs made by benchmarks.photos, on the CPU
    python -m benchmarks.warm --device cuda

Measured as in `benchmarks.images`, of which this is the other half; no contender but Keras' generator decodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.images import compare
from benchmarks.warm_contenders import CONTENDERS


def main(
    sizes: Annotated[str, typer.Option(help="side lengths, in pixels")] = "64,224",
    number: Annotated[int, typer.Option("--rounds", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="of each measurement, about")] = 1.0,
    data: Annotated[Path | None, typer.Option(help="a folder of class folders; default: benchmarks.photos")] = None,
    count: Annotated[int, typer.Option(help="photographs to make where there is no --data")] = 1000,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    only: Annotated[str | None, typer.Option(help=f"of {', '.join(CONTENDERS)}; default: all")] = None,
    out: Annotated[Path | None, typer.Option(help="the JSON file; default: benchmarks/results/")] = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON."""
    return compare("warm", CONTENDERS, sizes, number, seconds, data, count, device, only, out)


if __name__ == "__main__":
    typer.run(main)
