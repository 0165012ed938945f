"""A GPU-accelerated loader for training: it decodes, augments and delivers batches on the device where the model is."""

from gpuload.core.errors import BadSample, SampleError, TooManyErrors
from gpuload.decode.crop import CenterCrop, RandomResizedCrop
from gpuload.images.augment import Augment
from gpuload.loader import Loader
from gpuload.options import Cache, Errors
from gpuload.plan.order import Order
from gpuload.sources import ImageArray, ImageBytes, ImageFolder, ImageFrame, ImageList, Series
from gpuload.statistics import fit
from gpuload.windows.window import Window

__version__ = "0.1.0"
__all__ = [
    "Augment",
    "BadSample",
    "Cache",
    "CenterCrop",
    "Errors",
    "ImageArray",
    "ImageBytes",
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
