"""Previews that browsers play, made from videos that they may not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vemoclap_batch.app.jobs import Job, Jobs

#: How long making one may take, whatever the video is.
_TIMEOUT_S = 300.0
#: Frames with faces that are shown.
PICTURES = 8


class Previews:
    """Makes previews one at a time, in a process that may crash, when they are first asked for."""

    def __init__(self, jobs: Jobs, max_seconds: float) -> None:
        self._jobs, self._max_seconds = jobs, max_seconds
        self._making = asyncio.Lock()
        self._failed: set[str] = set()

    async def preview(self, job: Job) -> Path | None:
        """Return the preview of a job's video; None when there can be none."""
        if job.path is None or not Path(job.path).exists() or job.path in self._failed:
            return None
        path = self._jobs.preview_of(Path(job.path))
        async with self._making:
            if not path.exists() and not await asyncio.to_thread(self._make, job, path):
                self._failed.add(job.path)
        return path if path.exists() else None

    async def picture(self, job: Job, number: int) -> Path | None:
        """Return a frame with faces, by its number in :func:`shown_frames`."""
        preview = await self.preview(job)
        path = preview.with_name(f"{preview.stem}-{number}.jpg") if preview else None
        return path if path is not None and path.exists() else None

    def _make(self, job: Job, path: Path) -> bool:
        request = {
            "path": job.path, "preview": str(path), "folder": str(path.parent), "seconds": self._max_seconds,
            "times": [time for _, time in shown_frames(job.found or {})],
        }  # fmt: skip
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "vemoclap_batch.app.preview_worker"], input=json.dumps(request).encode(),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        finally:
            path.with_suffix(".part").unlink(missing_ok=True)
        return done.returncode == 0


def shown_frames(result: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return number and time of the frames whose faces are shown, spread over the video."""
    faces = ((result.get("extractors") or {}).get("face_emotion") or {}).get("faces") or []
    frames = sorted({(face["frame"], face["time_s"]) for face in faces})
    step = max(1, -(-len(frames) // PICTURES))
    return frames[::step]
