"""The plan: which samples a batch holds, and the random numbers of each. It needs NumPy only.

**Coordinates.** A matrix maps a position in the output to a position in the input, in (x, y), in pixels, with pixel
centres at +0.5: the top left pixel of an image is centred at (0.5, 0.5) and the image covers [0, width] x [0, height].
"""
