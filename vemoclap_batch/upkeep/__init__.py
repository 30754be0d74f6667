"""Upkeep of an output folder: status, garbage collection, the nightly job."""
