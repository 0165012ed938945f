"""Encoded images to levels: what is decoded (`spec`), and the decoders that do it (`dali`, `pillow`).

Levels are pixels [H, W, C] from 0 to 255, before anything random is done to them except a crop.
"""
