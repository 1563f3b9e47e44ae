"""Bundles that were made elsewhere (MONAI Model Zoo): read by a closed loader, checked, and brought on the shelf.

Nothing of such a bundle is run: no expression is evaluated by Python, nothing under `scripts/` is imported, and MONAI's
parser, which would do both, never sees it (promise 7).
"""
