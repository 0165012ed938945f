"""Images: what is done to them (`augment`), one batch of it (`step`), and the engines that carry steps out.

A job (`job`) names the decoder and the engine. Decoders make levels of one size; caches keep them; an augmenter makes
batches of them: `reference` in NumPy and SciPy, `host` compiled by numba, `device` on a GPU. All augmenters give the
same batch for the same step, within a stated tolerance.
"""
