"""Measures what docs/benchmarks.md states: each module one benchmark, run by jobs/benchmark.py."""
