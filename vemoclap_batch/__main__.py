"""``python -m vemoclap_batch``."""

from vemoclap_batch.cli.app import main

main()
