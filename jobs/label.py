"""Label videos: python jobs/label.py SOURCE... -o OUT, the command `vemoclap-batch label` as an entry point for jobs.

The last line of standard output is the run's summary as JSON.
"""

import sys

from vemoclap_batch.cli.app import main

if __name__ == "__main__":
    main(["label", *sys.argv[1:], "--json"])
