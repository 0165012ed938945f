"""Command line of gpuload: `gpuload demo` and `gpuload tune`."""

from gpuload.cli.app import main

__all__ = ["main"]
