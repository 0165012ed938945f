"""A GPU-accelerated loader for training: decodes, augments and delivers batches where the model is."""

from gpuload.errors import BadSample, SampleError, TooManyErrors
from gpuload.loader import Loader
from gpuload.plan import Augment, CenterCrop, Order, RandomResizedCrop, Window
from gpuload.sources import ImageArray, ImageFolder, ImageFrame, ImageList, Series
from gpuload.statistics import fit

__version__ = "0.1.0"
__all__ = [
    "Augment",
    "BadSample",
    "CenterCrop",
    "ImageArray",
    "ImageFolder",
    "ImageFrame",
    "ImageList",
    "Loader",
    "Order",
    "RandomResizedCrop",
    "SampleError",
    "Series",
    "TooManyErrors",
    "Window",
    "fit",
]
