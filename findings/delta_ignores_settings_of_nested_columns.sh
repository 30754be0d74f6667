#!/usr/bin/env bash
# Dictionaries are switched off for the numbers of a column of lists, by the name that Parquet gives to its leaf
# (feature.list.item), and for a plain column beside it.
#
# Guess: both are written without a dictionary, as with pyarrow's use_dictionary and parquet-rs's column paths.
# Seen with deltalake 1.6.6: the setting of the nested column is ignored without a word, whether it names the leaf or the
# column; that of the plain column holds. Only default_column_properties reaches nested columns.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deltalake==1.6.6 pyarrow==26.0.1
cd "$folder"
venv/bin/python - <<'EOF'
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import ColumnProperties, DeltaTable, WriterProperties, write_deltalake

rows = pa.table({"feature": pa.array([[0.5, 1.5], [2.5]], pa.list_(pa.float32())), "plain": [1.0, 2.0]})
off = ColumnProperties(dictionary_enabled=False)


def with_dictionary(table, **properties):
    write_deltalake(table, rows, writer_properties=WriterProperties(**properties))
    group = pq.read_metadata(DeltaTable(table).file_uris()[0]).row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    return {column.path_in_schema for column in columns if column.has_dictionary_page}


leaf = with_dictionary("leaf", column_properties={"feature.list.item": off, "plain": off})
column = with_dictionary("column", column_properties={"feature": off, "plain": off})
default = with_dictionary("default", default_column_properties=off)
print(f"by the leaf: {leaf}; by the column: {column}; by default: {default or 'none'} with a dictionary")
assert leaf == column == {"feature.list.item"} and not default
EOF
echo "as described"
