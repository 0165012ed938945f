"""Arrays of each framework, made of an engine's arrays on the device where they are."""

from gpuload.delivery.base import CUPY, FRAMEWORKS, Allocator, Framework, choose

__all__ = ["CUPY", "FRAMEWORKS", "Allocator", "Framework", "choose"]
