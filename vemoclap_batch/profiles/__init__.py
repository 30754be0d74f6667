"""The profiles: which extractors, which models, how they run."""
