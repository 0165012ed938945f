"""Programs that measure gpuload, run as modules from the repository's root.

README.md beside this file says what each of them measures. `benchmarks.report` renews the tables of that page and of
the README's from what they wrote, `benchmarks.charts` draws.
"""
