"""Extract features: python jobs/extract.py SOURCE... -o OUT, `vemoclap-batch extract` as an entry point for jobs.

The last line of standard output is the run's summary as JSON.
"""

import sys

from vemoclap_batch.cli.app import main

if __name__ == "__main__":
    main(["extract", *sys.argv[1:], "--json"])
