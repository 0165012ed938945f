"""The proof on a GPU, `python -m benchmarks.gpu`: one file a stage, and the program that runs them in turn."""
