"""The commands, one file a group; :mod:`~vemoclap_batch.cli.app` puts them together."""
