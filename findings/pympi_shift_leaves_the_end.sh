#!/usr/bin/env bash
# Annotations of an ELAN document that pympi-ling shifts to before the beginning.
#
# Guess: shift_annotations(-500) takes half a second off every time; what would begin before 0 is cut there.
# Seen with pympi-ling 1.71: such an annotation begins at 0 and its end stays where it was, so that 0 to 1000 ms becomes
# 0 to 1000 and not 0 to 500. The next one moves, and the two overlap, which ELAN allows in no tier.
#
# Needs bash, python3 (3.11 or 3.12) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pympi-ling==1.71
cd "$folder"
venv/bin/python - <<'PYTHON'
import pympi

document = pympi.Elan.Eaf()
document.add_tier("emotion")
for start, end, label in [(0, 1000, "joy"), (1000, 2000, "fear"), (2000, 3000, "anger")]:
    document.add_annotation("emotion", start, end, label)
document.shift_annotations(-500)
found = sorted(document.get_annotation_data_for_tier("emotion"))
print(found)
assert found == [(0, 1000, "joy"), (500, 1500, "fear"), (1500, 2500, "anger")]
PYTHON
echo "as described"
