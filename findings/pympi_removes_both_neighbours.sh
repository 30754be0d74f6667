#!/usr/bin/env bash
# Removing the annotation that begins at a time, where another one ends, with pympi-ling.
#
# Guess: remove_annotation(tier, 1000) removes the annotation that begins at 1000 ms; one from 0 to 1000 ends before it.
# Seen with pympi-ling 1.71: both ends of an annotation belong to it. Where annotations touch, as those of windows do, two
# are removed; get_annotation_data_at_time gives both, and get_annotation_data_between_times those that merely touch.
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
there = document.get_annotation_data_at_time("emotion", 1000)
between = document.get_annotation_data_between_times("emotion", 1000, 2000)
removed = document.remove_annotation("emotion", 1000)
left = document.get_annotation_data_for_tier("emotion")
print(f"at 1000: {there}; from 1000 to 2000: {between}; removed: {removed}; left: {left}")
assert [label for *_, label in there] == ["joy", "fear"]
assert sorted(label for *_, label in between) == ["anger", "fear", "joy"]
assert (removed, left) == (2, [(2000, 3000, "anger")])
PYTHON
echo "as described"
