"""`python -m gpuload.cli`."""

from gpuload.cli import main

if __name__ == "__main__":
    main()
