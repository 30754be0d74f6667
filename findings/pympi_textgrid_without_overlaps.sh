#!/usr/bin/env bash
# Annotations that overlap, from ELAN to Praat by pympi-ling.
#
# Guess: to_textgrid keeps every annotation, or refuses a tier that a TextGrid cannot hold.
# Seen with pympi-ling 1.71: of two annotations that overlap, the second one is left out without a word. The time that it
# has to itself becomes an interval without a text. add_annotation takes overlaps, so that nothing warns before, either.
#
# Needs bash, python3 (3.11 or 3.12) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pympi-ling==1.71
cd "$folder"
venv/bin/python - <<'PYTHON'
import warnings

import pympi

warnings.simplefilter("error")
document = pympi.Elan.Eaf()
document.add_tier("emotion")
for start, end, label in [(0, 1000, "joy"), (500, 1500, "fear"), (1500, 2500, "anger")]:
    document.add_annotation("emotion", start, end, label)
grid = document.to_textgrid(filtin=["emotion"])
found = list(grid.get_tier("emotion").get_all_intervals())
print(found)
assert found == [(0.0, 1.0, "joy"), (1.0, 1.5, ""), (1.5, 2.5, "anger")]
PYTHON
echo "as described"
