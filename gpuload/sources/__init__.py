"""Sources: which samples exist, their labels, and where each lies. A source never opens or decodes an image.

`base.py` is the contract. Each file beside it is one kind of source.
"""

from gpuload.sources.array import ImageArray
from gpuload.sources.base import Source, SourceOfFiles
from gpuload.sources.files import FileSource
from gpuload.sources.folder import ImageFolder
from gpuload.sources.frame import ImageFrame
from gpuload.sources.listing import ImageList
from gpuload.sources.series import Series

ImageSource = FileSource | ImageArray
"""Any source of images."""

__all__ = [
    "FileSource",
    "ImageArray",
    "ImageFolder",
    "ImageFrame",
    "ImageList",
    "ImageSource",
    "Series",
    "Source",
    "SourceOfFiles",
]
