"""``python -m vemoclap_batch``."""

from vemoclap_batch.cli import main

main()
