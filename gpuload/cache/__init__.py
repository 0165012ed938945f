"""Decoded, resized images of a data set, kept for the epochs to come: in memory, or in a file.

A cache holds levels as the decoder made them, before anything random is done to them, so that batches are the same with
it and without. Its slots are numbered as the samples are: it holds the first ones of the data set, as many as fit.
"""

from gpuload.cache.device import DeviceCache
from gpuload.cache.disk import DiskCache
from gpuload.cache.host import HostCache
from gpuload.cache.policy import CachePolicy

__all__ = ["CachePolicy", "DeviceCache", "DiskCache", "HostCache"]
