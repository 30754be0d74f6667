#!/usr/bin/env bash
# A transport stream whose second part has streams of other numbers, as after an advert in a live recording.
#
# Guess: container.demux(container.streams.video[0]) gives the packets of that stream until the end of the file.
# Seen with PyAV 18.1.0 (FFmpeg 8.1.2): the first packet of the new stream raises IndexError, which is no av.FFmpegError,
# from within demux(), though that stream was not asked for, and is not in container.streams. Calling demux() again goes on
# behind that packet. The ffmpeg of imageio-ffmpeg 0.8.1 reads such a file to its end.
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
from pathlib import Path

import av
from imageio_ffmpeg import get_ffmpeg_exe

ffmpeg = [get_ffmpeg_exe(), "-v", "error", "-y"]
video = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25:duration=3", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
subprocess.run([*ffmpeg, *video, "a.ts"], check=True)
subprocess.run([*ffmpeg, *video, "-mpegts_start_pid", "512", "-mpegts_pmt_start_pid", "1280", "b.ts"], check=True)
Path("joined.ts").write_bytes(Path("a.ts").read_bytes() + Path("b.ts").read_bytes())
packets, errors = 0, 0
with av.open("joined.ts") as container:
    streams = len(container.streams)
    while True:
        try:
            for packet in container.demux(container.streams.video[0]):
                packets += bool(packet.size)
            break
        except IndexError:
            errors += 1
shown = subprocess.run([*ffmpeg[:1], "-v", "error", "-i", "joined.ts"] + ["-f", "null", "-"], capture_output=True)
print(f"{streams} stream; {packets} packets, {errors} times IndexError; ffmpeg ends with {shown.returncode}")
assert streams == 1 and packets == 75 and errors >= 1 and shown.returncode == 0
EOF
echo "as described"
