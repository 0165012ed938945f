"""Programs that measure gpuload, run as modules from the repository's root: see README.md beside this file."""
