"""`gpuload demo`: `images`, or with --series `series`; both train networks with `training`.

In each of the two, `run` does the work and prints nothing, and `show` runs it and prints.
"""
