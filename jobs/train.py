"""Train the fusion: python jobs/train.py OUT --labels FILE -o CKPT, `vemoclap-batch train` as an entry point for jobs.

The last line of standard output is what came of it, as JSON.
"""

import sys

from vemoclap_batch.cli.app import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:], "--json"])
