"""Programs that measure gpuload, run as modules from the repository's root.

`benchmarks.images` is speed beside other loaders, `benchmarks.memory` memory over many epochs, `benchmarks.listing` the
time to list a folder. `benchmarks.report` renews the README's table from what the first of them wrote.
"""
