#!/usr/bin/env bash
# Measures a machine with one NVIDIA GPU, in at most 12 minutes: jobs/bench/gpu.sh FOLDER CLIPS [--quick]
#
# FOLDER gets a report of every part as JSON, its log, and all tables in tables.txt. CLIPS is a video, or a folder of
# them, of which the runs' videos are copies. --quick shows on a CPU that it works, with toys for models.
#
# The machine needs no network, only a Python with torch ($PYTHON). What else the paper profile needs without OCR and
# captions is installed from the wheels in $WHEELS, if that is given: ray, av, deltalake, ctranslate2, faster-whisper,
# open-clip-torch, ultralytics and what they need, as `pip download --no-deps` fetches them.
#
# Every part has a time of its own and ends with the whole; the next one runs whatever became of it.
set -uo pipefail

folder=$(realpath -m "${1:?the folder for the results}") clips=$(realpath "${2:?a video or a folder of them}")
quick=${3:-} limit_s=${LIMIT_S:-720}
cd "$(dirname "$0")/../.." || exit 1
mkdir -p "$folder"
python=${PYTHON:-python3} models=$folder/models
device=$([ -z "$quick" ] && echo cuda || echo cpu)
export PYTHONPATH=$PWD:$PWD/jobs${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0

if [ -n "${WHEELS:-}" ]; then
    "$python" -m venv --system-site-packages "$folder/venv" &&
        "$folder/venv/bin/python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl || exit 1
    python=$folder/venv/bin/python
fi

# CTranslate2 opens cuBLAS 12; where torch brought version 13 alone, its functions under the old name will do.
if [ "$device" = cuda ] && ! "$python" -c 'import ctypes; ctypes.CDLL("libcublas.so.12")' 2>/dev/null; then
    mkdir -p "$folder/lib"
    for name in libcublas libcublasLt; do
        library=$("$python" - "$name.so.13" <<'EOF'
import sys
from importlib.metadata import files
print(next((str(file.locate()) for file in files("nvidia-cublas") or [] if file.name == sys.argv[1]), ""))
EOF
        )
        [ -n "$library" ] && ln -sf "$library" "$folder/lib/$name.so.12"
    done
    export LD_LIBRARY_PATH=$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi

# part NAME SECONDS ARGUMENT…: runs a part of bench/gpu.py for at most so long, or as long as there is left.
part() {
    local name=$1 most_s=$2 left_s=$((limit_s - SECONDS)) began=$SECONDS
    shift 2
    [ "$left_s" -lt 5 ] && { echo "$name: no time left"; failed=1; return; }
    timeout --kill-after=10 "$((left_s < most_s ? left_s : most_s))" \
        "$python" jobs/benchmark.py gpu "$@" >"$folder/$name.log" 2>&1
    local status=$?
    [ "$status" -eq 0 ] || failed=1
    echo "$name: exit status $status after $((SECONDS - began)) s"
}

failed=0
small=(--device "$device" ${quick:+--quick})
run=(chains "$models" --clips "$clips" --device "$device")
count=96 most=320
[ -n "$quick" ] && count=4 most=6

nvidia-smi >"$folder/nvidia-smi.txt" 2>&1
part weights 150 weights "$models" ${quick:+--quick}
part run 200 "${run[@]}" --count "$most" --out "$folder/run.json"
for chains in 1 2 3 4; do
    part "chains$chains" 75 "${run[@]}" --count "$count" --chains-per-gpu "$chains" --out "$folder/chains$chains.json"
done
part whisper 100 whisper "$models" "${small[@]}" --out "$folder/whisper.json"
part batches 120 batches "$models" "${small[@]}" --out "$folder/batches.json"
part parity 60 parity "$models" "${small[@]}" --out "$folder/parity.json"

# What is kept is the reports: models and videos are many times as large.
rm -rf "$models" "$folder"/*.run
"$python" jobs/benchmark.py gpu table "$folder" >"$folder/tables.txt" 2>&1
cat "$folder/tables.txt"
exit "$failed"
