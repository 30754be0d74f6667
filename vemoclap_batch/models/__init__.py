"""Pretrained weights outside the package: which there are, where they lie, fetching and checking them."""
