#!/usr/bin/env bash
# QuickTime video of 8 bits with a palette (SMC): screen recordings and titles of old multimedia discs.
#
# Guess: to seek to 0 in a file that was just opened changes nothing.
# Seen with PyAV 18.1.0 (FFmpeg 8.1.2): the palette comes as side data of the first packet that is read after opening. If
# a seek comes before it, even one to 0, it is lost: every frame is black, frame.is_corrupt says False and nothing is
# raised. decord 0.6.0, which seeks, always gives black.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 decord==0.6.0 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'EOF'
import av
import decord
import numpy as np

colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]], np.uint8)
with av.open("palette.mov", "w") as container:
    stream = container.add_stream("smc", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "pal8"
    for number in range(5):
        places = np.add.outer(np.arange(64) // 16, np.arange(64) // 16 + number) % 4
        palette = np.zeros((256, 4), np.uint8)
        palette[:4] = np.insert(colours, 0, 255, axis=1)  # alpha, red, green, blue
        frame = av.VideoFrame.from_ndarray((places.astype(np.uint8), palette), format="pal8")
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
with av.open("palette.mov") as container:
    opened = next(container.decode(video=0)).to_ndarray(format="rgb24").mean()
with av.open("palette.mov") as container:
    container.seek(0, stream=container.streams.video[0])
    frame = next(container.decode(video=0))
    sought, marked = frame.to_ndarray(format="rgb24").mean(), frame.is_corrupt
black = decord.VideoReader("palette.mov")[0].asnumpy().mean()
print(f"mean of the first frame: {opened:.0f} after opening, {sought:.0f} after a seek to 0, {black:.0f} by decord")
assert opened > 80 and sought < 5 and not marked and black < 5
EOF
echo "as described"
