"""Decoded and resized images, kept for later epochs: in memory, in a file, or on a GPU.

A cache holds levels as the decoder made them, before anything random is done to them. So batches are the same with and
without it. Slots have the numbers of the samples: a cache holds the first samples of the data set, as many as fit.
"""

from gpuload.cache.device import ArrayImages, DeviceCache, HostImages
from gpuload.cache.disk import DiskCache
from gpuload.cache.host import HostCache

__all__ = ["ArrayImages", "DeviceCache", "DiskCache", "HostCache", "HostImages"]
