#!/usr/bin/env bash
# A Delta table in a local folder whose name holds % and two hexadecimal digits, as downloads named after addresses do.
#
# Guess: a local path is taken as it is.
# Seen with deltalake 1.6.6: the table is created in that folder, and cannot be opened again: it is looked for under the
# name that %20 stands for, and were there a table of that name, it would be read. Blanks, #, ? and a % before others do
# no harm.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deltalake==1.6.6 pyarrow==26.0.1
cd "$folder"
venv/bin/python - <<'EOF'
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

found = {}
for name in ("a b", "a#b?c", "100% b", "c%20d"):
    folder = Path(name, "table").absolute()
    try:
        DeltaTable.create(folder, pa.schema([("x", pa.int64())]))
        found[name] = f"version {DeltaTable(folder).version()}"
    except DeltaError as error:
        found[name] = str(error).replace(str(Path.cwd()), "")
    assert (folder / "_delta_log" / "00000000000000000000.json").is_file()
    print(f"{name!r}: {found[name]}")
assert [found[name] for name in ("a b", "a#b?c", "100% b")] == ["version 0"] * 3
assert "File not found: /c d/table/_delta_log" in found["c%20d"]
EOF
echo "as described"
