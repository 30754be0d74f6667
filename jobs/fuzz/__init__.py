"""Broken and unusual media files, made at random, against the decoders."""
