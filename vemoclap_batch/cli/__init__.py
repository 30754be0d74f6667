"""The commands, one file a group; :mod:`~vemoclap_batch.cli.app.app` puts them together."""
