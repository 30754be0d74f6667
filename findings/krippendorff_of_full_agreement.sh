#!/usr/bin/env bash
# Krippendorff's alpha of annotators who always give the same one label.
#
# Guess: full agreement is 1, however the ratings are handed over; or it is undefined, and nan says so.
# Seen with krippendorff 0.9.0: the same ratings raise ValueError as a matrix of raters and units, and give nan as a matrix
# of units and counts. A value that nobody gave, put into value_domain, makes the first one nan, too.
#
# Needs bash, python3 (3.11 or 3.12) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check krippendorff==0.9.0 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PYTHON'
import math
import warnings

import krippendorff
import numpy as np

warnings.simplefilter("ignore")
ratings = np.array([[1, 1, 1], [1, 1, 1]])
try:
    krippendorff.alpha(ratings, level_of_measurement="nominal")
    raised = ""
except ValueError as error:
    raised = str(error)
by_counts = krippendorff.alpha(value_counts=np.array([[0, 2]] * 3), level_of_measurement="nominal")
by_domain = krippendorff.alpha(ratings, level_of_measurement="nominal", value_domain=[0, 1])
print(f"matrix of raters: {raised!r}; counts: {by_counts}; with a second value: {by_domain}")
assert "more than one value" in raised
assert math.isnan(by_counts)
assert math.isnan(by_domain)
PYTHON
echo "as described"
