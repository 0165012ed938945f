"""Bytes and headers of files."""
