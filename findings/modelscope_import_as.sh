#!/usr/bin/env bash
# A module of modelscope imported under a name, as PaddleX does it, beside transformers.
#
# Guess: "import modelscope.hub.errors as errors" loads what "from modelscope.hub import errors" loads.
# Seen with modelscope 1.40.2 and transformers 5.23.0: the first also imports transformers, which the second does not.
# modelscope replaces its own module by a lazy one while it is imported; the submodule "hub" is set on the old one, so
# the name is looked up by the lazy one, which asks transformers for it. A process that only reads text by PaddleOCR pays
# for that import.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check modelscope==1.40.2 transformers==5.23.0
cd "$folder"
loads() {
    venv/bin/python -c "$1; import sys; print('transformers' in sys.modules)" 2>/dev/null | tail -1
}
named=$(loads "import modelscope.hub.errors as errors")
taken=$(loads "from modelscope.hub import errors")
echo "import … as: transformers loaded $named; from … import: $taken"
[ "$named" = True ] && [ "$taken" = False ]
echo "as described"
