"""What every room uses: devices, checks of arguments, errors, aligned memory, ranges for profilers."""
