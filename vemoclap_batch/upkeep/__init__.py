"""Upkeep of an output folder: status, garbage collection, the nightly run."""
