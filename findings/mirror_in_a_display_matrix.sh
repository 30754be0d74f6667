#!/usr/bin/env bash
# MP4 whose display matrix mirrors the picture from left to right, as front cameras and editors write it.
#
# Guess: frame.rotation tells how to show the picture, and decord, which turns pictures by itself, shows it right.
# Seen with PyAV 18.1.0 (FFmpeg 8.1.2): frame.rotation is -180, the same as for a picture that stands on its head; the
# mirror is in frame.side_data alone. decord 0.6.0 shows the picture upside down, without a word. The ffmpeg of
# imageio-ffmpeg 0.8.1 mirrors it from left to right, as the matrix says.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 decord==0.6.0 numpy==2.3.5 \
  imageio-ffmpeg==0.8.1
cd "$folder"
venv/bin/python - <<'EOF'
import subprocess

import av
import decord
import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

ffmpeg = [get_ffmpeg_exe(), "-v", "error", "-y"]
# Red at the left above, all else blue.
stored = ["-f", "lavfi", "-i", "color=blue:size=128x128:rate=10:duration=1,drawbox=w=64:h=64:color=red:t=fill"]
subprocess.run([*ffmpeg, *stored, "-c:v", "libx264", "-pix_fmt", "yuv420p", "plain.mp4"], check=True)
subprocess.run([*ffmpeg, "-display_hflip:v:0", "-i", "plain.mp4", "-c", "copy", "mirrored.mp4"], check=True)
shown = subprocess.run([*ffmpeg, "-i", "mirrored.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
                       check=True, capture_output=True).stdout


def red_corner(picture):
    corners = {"left above": picture[32, 32], "right above": picture[32, 96],
               "left below": picture[96, 32], "right below": picture[96, 96]}
    return max(corners, key=lambda corner: int(corners[corner][0]) - int(corners[corner][2]))


with av.open("mirrored.mp4") as container:
    frame = next(container.decode(video=0))
by_ffmpeg = red_corner(np.frombuffer(shown, np.uint8)[: 128 * 128 * 3].reshape(128, 128, 3))
by_decord = red_corner(decord.VideoReader("mirrored.mp4")[0].asnumpy())
print(f"frame.rotation {frame.rotation}; red is {by_ffmpeg} by ffmpeg, {by_decord} by decord")
assert abs(frame.rotation) == 180 and by_ffmpeg == "right above" and by_decord == "right below"
EOF
echo "as described"
