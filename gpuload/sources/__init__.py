"""Sources: which samples exist, their labels, and where each lies. A source never decodes an image.

`base.py` is the contract. Each file beside it is one kind of source. `custom.py` takes a user's own.
"""

from gpuload.sources.array import ImageArray
from gpuload.sources.base import Encoded, EncodedSource, Source
from gpuload.sources.custom import CustomSource, Readable, as_source
from gpuload.sources.encoded import ImageBytes
from gpuload.sources.files import FileSource
from gpuload.sources.folder import ImageFolder
from gpuload.sources.frame import ImageFrame
from gpuload.sources.listing import ImageList
from gpuload.sources.series import Series

EncodedImages = FileSource | ImageBytes | CustomSource
"""Any source of images that a decoder reads."""
ImageSource = EncodedImages | ImageArray
"""Any source of images."""

__all__ = [
    "CustomSource",
    "Encoded",
    "EncodedImages",
    "EncodedSource",
    "FileSource",
    "ImageArray",
    "ImageBytes",
    "ImageFolder",
    "ImageFrame",
    "ImageList",
    "ImageSource",
    "Readable",
    "Series",
    "Source",
    "as_source",
]
