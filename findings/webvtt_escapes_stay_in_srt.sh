#!/usr/bin/env bash
# A WebVTT file with escapes, saved as SubRip by webvtt-py.
#
# Guess: "&lt;3 &amp; more" is "<3 & more" as a text, and in SubRip, which has no escapes.
# Seen with webvtt-py 0.6.0: Caption.text has tags taken out and escapes left in, so that it is neither the text nor the
# payload; save_as_srt writes it, and a player shows "&lt;3 &amp; more". start_in_seconds is a whole number: 1.9 s is 1.
#
# Needs bash, python3 (3.11 or 3.12) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check webvtt-py==0.6.0
cd "$folder"
venv/bin/python - <<'PYTHON'
from pathlib import Path

import webvtt

read = webvtt.from_string("WEBVTT\n\n00:00:01.900 --> 00:00:02.500\n&lt;3 &amp; <i>more</i>\n")
read.save_as_srt("clip.srt")
saved = Path("clip.srt").read_text()
print(repr(read[0].text), read[0].start_in_seconds, repr(saved))
assert read[0].text == "&lt;3 &amp; more"
assert read[0].start_in_seconds == 1
assert saved == "1\n00:00:01,900 --> 00:00:02,500\n&lt;3 &amp; more"
PYTHON
echo "as described"
