#!/usr/bin/env bash
# A conditional upload with obstore: what put returned of the last version is given to the next put as its condition, as
# its types have it (e_tag and version, each a text or None, in both places).
#
# Guess: it is taken; a store without version numbers, such as most buckets on S3, has None there.
# Seen with obstore 0.12.1: put refuses its own answer with TypeError, for the None; without that entry it is taken.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check obstore==0.12.1
cd "$folder"
venv/bin/python - <<'EOF'
import obstore
from obstore.store import MemoryStore

store = MemoryStore()
version = obstore.put(store, "lock", b"1")
try:
    obstore.put(store, "lock", b"2", mode=version)
    refused = "taken"
except TypeError as error:
    refused = str(error).splitlines()[0]
known = {name: value for name, value in version.items() if value is not None}
obstore.put(store, "lock", b"2", mode=known)
print(f"{version}: {refused}; {known}: taken")
assert version["version"] is None and refused == "'None' is not an instance of 'str'", (version, refused)
EOF
echo "as described"
