"""`gpuload demo`: `images`, or with --series `series`. `run` does the work, and `show` runs it and prints."""
