"""Sources: what exists. They name and label images, and never open or decode one."""

from gpuload.sources.array import ImageArray
from gpuload.sources.files import FileSource, ImageFrame, ImageList
from gpuload.sources.folder import ImageFolder
from gpuload.sources.series import Series

ImageSource = FileSource | ImageArray
"""Any source of images."""

__all__ = ["FileSource", "ImageArray", "ImageFolder", "ImageFrame", "ImageList", "ImageSource", "Series"]
