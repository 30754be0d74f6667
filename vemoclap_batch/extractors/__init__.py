"""Extractors: each a plain class in a file of its own, usable without a cluster."""
