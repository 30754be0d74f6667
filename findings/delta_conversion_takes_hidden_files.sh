#!/usr/bin/env bash
# A folder of Parquet files, one of them hidden (.being-written.parquet), is made a Delta table in place.
#
# Guess: hidden files stay out, as pyarrow.dataset, Spark and DuckDB's patterns leave them out: who writes a file under a
# hidden name and renames it in the end counts on that.
# Seen with deltalake 1.6.6: convert_to_deltalake makes the hidden file part of the table; its rows are read from then on.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deltalake==1.6.6 pyarrow==26.0.1
cd "$folder"
venv/bin/python - <<'EOF'
import os

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable, convert_to_deltalake

os.mkdir("table")
for name, value in (("part-1.parquet", 1), (".being-written.parquet", 2)):
    pq.write_table(pa.table({"x": [value]}), f"table/{name}")
by_pyarrow = ds.dataset("table").to_table()["x"].to_pylist()
convert_to_deltalake("table")
by_delta = sorted(DeltaTable("table").to_pyarrow_table()["x"].to_pylist())
print(f"pyarrow reads {by_pyarrow}, the Delta table {by_delta}")
assert (by_pyarrow, by_delta) == ([1], [1, 2])
EOF
echo "as described"
