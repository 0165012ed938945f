"""Images per second from the second epoch on: gpuload's cache beside other loaders of images that were decoded before.

    python -m benchmarks.warm                    photographs made by benchmarks.photos, on the CPU
    python -m benchmarks.warm --device cuda

Measured as in `benchmarks.images`. No contender but Keras' generator decodes.
"""

import typer

from benchmarks.images import comparison
from benchmarks.warm_contenders import CONTENDERS

main = comparison("warm", CONTENDERS)

if __name__ == "__main__":
    typer.run(main)
