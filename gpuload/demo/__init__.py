"""`gpuload demo`: of images (`images`), and with --series of time series (`series`).

In either, `run` does the work and prints nothing, and `show` runs it and prints. What they share is in `training`.
"""
