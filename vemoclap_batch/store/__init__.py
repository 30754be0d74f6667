"""Parquet tables on any filesystem: schemas, atomic commits, what is missing."""
