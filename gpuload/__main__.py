"""`python -m gpuload`."""

from gpuload.cli import main

if __name__ == "__main__":
    main()
