"""Measures what the README states: each module one benchmark, run by jobs/benchmark.py."""
