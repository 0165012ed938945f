"""Images per second from the second epoch on: gpuload's cache beside other loaders of images that were decoded before.

    python -m benchmarks.warm                    photographs made by benchmarks.photos, on the CPU
    python -m benchmarks.warm --device cuda

Measured as in `benchmarks.images`. No contender but Keras' generator decodes.
"""

from benchmarks.images import compare
from benchmarks.program import Report
from benchmarks.warm_contenders import CONTENDERS


def main(*arguments: str) -> Report:
    """Measure, print a table, write JSON."""
    return compare("warm", CONTENDERS, __doc__, arguments)


if __name__ == "__main__":
    main()
