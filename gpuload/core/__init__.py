"""The base of every room: devices, checks of arguments, errors, aligned memory, ranges for profilers."""
