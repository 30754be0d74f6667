#!/usr/bin/env bash
# H.264 with B-frames in MXF, as broadcasters and editors exchange it.
#
# Guess: packet.pts says when a frame is shown, and frame.pts grows from frame to frame.
# Seen with PyAV 18.1.0 (FFmpeg 8.1.2) on a file that the ffmpeg of imageio-ffmpeg 0.8.1 wrote: pts is dts in every
# packet, though the codec reorders frames. Frames come in the right order, but with each other's time stamps, which go
# back every few frames. Who looks a frame up by its time gets a neighbour.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 imageio-ffmpeg==0.8.1
cd "$folder"
venv/bin/python - <<'EOF'
import subprocess

import av
from imageio_ffmpeg import get_ffmpeg_exe

ffmpeg = [get_ffmpeg_exe(), "-v", "error", "-y"]
video = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25:duration=3"]
subprocess.run([*ffmpeg, *video, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "2", "-g", "12", "v.mxf"], check=True)
with av.open("v.mxf") as container:
    packets = [packet for packet in container.demux(video=0) if packet.size]
with av.open("v.mxf") as container:
    times = [frame.pts for frame in container.decode(video=0)]
differ = sum(packet.pts != packet.dts for packet in packets)
back = sum(later is not None and earlier is not None and later < earlier for earlier, later in zip(times, times[1:]))
print(f"{len(packets)} packets, {differ} with pts other than dts; {len(times)} frames, {back} of them go back in time")
assert len(packets) == len(times) == 75 and differ == 0 and back > 10
EOF
echo "as described"
