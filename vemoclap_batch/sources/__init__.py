"""Which videos: manifests, folders, globs and data sets, as rows."""
