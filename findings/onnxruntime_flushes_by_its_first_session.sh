#!/usr/bin/env bash
# onnxruntime's session option session.set_denormal_as_zero.
#
# Guess: it makes that session treat subnormal numbers as zero, and nothing else.
# Seen with onnxruntime 1.32.0 on x86-64: for the thread that calls, only the first session of a process counts. Set on it,
# the whole thread goes on so, NumPy included (1e-40 * 1 is 0 from then on). Set on a later session, nothing changes.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.3.5
cd "$folder"
cat > check.py <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

place = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "graph", place[:1], place[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
small = np.full(4, 1e-40, np.float32)
kept = []
for option in sys.argv[1:]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", option)
    kept.append(onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
print(bool((small * np.float32(1)).any()))
PYTHON
none=$(venv/bin/python check.py 0)
first=$(venv/bin/python check.py 1 0)
later=$(venv/bin/python check.py 0 1)
echo "NumPy keeps subnormal numbers: option off $none; on in the first session $first; on in the second $later"
[ "$none" = True ] && [ "$first" = False ] && [ "$later" = True ]
echo "as described"
