"""From a file or a link to what is found in it: the queue, the warm chains, the one writer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ray.exceptions import RayError

from vemoclap_batch.app.fetching import Fetcher
from vemoclap_batch.app.guard import check
from vemoclap_batch.app.jobs import Job, Jobs, State, new_id
from vemoclap_batch.app.pace import Pace
from vemoclap_batch.app.probe import Probe
from vemoclap_batch.app.settings import ServeSettings
from vemoclap_batch.app.taken import Refused, Upload, shown_name
from vemoclap_batch.app.turns import WriterThread
from vemoclap_batch.app.warm import Chains
from vemoclap_batch.app.writer import Outcome, Video, Writer, finite, stage_seconds
from vemoclap_batch.errors import ErrorType, Failure, RunEnded
from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.sources.listing import MEDIA_SUFFIXES, UNKNOWN_CONTENT, local_content_key, normalise
from vemoclap_batch.sources.manifest import video_id

log = logging.getLogger(__name__)

#: Links that are fetched at a time.
_FETCHES = 4
#: The folder is given back when nothing was to do for so long.
_IDLE_S = 2.0
_LOOK_EVERY_S, _FORGET_EVERY_S = 0.2, 600.0
#: All uploads count as changed then: what is in them is in their name.
_CHANGED_AT_NS = 946_684_800_000_000_000


class Service:
    """Takes videos, works on them, and tells how far it is. Lives in one event loop."""

    def __init__(
        self, settings: ServeSettings, jobs: Jobs, chains: Chains, writer: Writer, fetcher: Fetcher, probe: Probe,
        pace: Pace,
    ) -> None:  # fmt: skip
        self.settings, self.jobs, self._chains, self._writer = settings, jobs, chains, writer
        self._fetcher, self._probe, self._pace = fetcher, probe, pace
        self.draining = False
        #: Clips of the server's own that anybody may have labelled.
        self.samples: list[Path] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._deleted: set[str] = set()
        self._began: dict[str, float] = {}
        self._doing: dict[str, tuple[str, list[str]]] = {}
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._writing = WriterThread(writer)
        self._idle_since = time.monotonic()

    # ---- what is asked for

    def submit_upload(self, upload: Upload) -> Job:
        """Take a file that has come whole.

        Raises:
            Refused: the server stops, or too many videos wait.
        """
        try:
            self.check_room()
        except Refused:
            upload.path.unlink(missing_ok=True)
            raise
        name = shown_name(upload.name)
        path = self._kept(upload)
        video = self._writer.same(upload.size, upload.sha256)  # A batch run may have had a file with these very bytes.
        video = video or Video(video_id(str(path)), local_content_key(str(path)), str(path))
        return self._queue(Job(new_id(), name, time.time(), path=str(path)), video)

    def submit_file(self, path: Path, name: str) -> Job:
        """Take a file of this machine that stays where it is, such as a sample."""
        self.check_room()
        address = normalise(str(path))
        job = Job(new_id(), shown_name(name), time.time(), path=address)
        return self._queue(job, Video(video_id(address), local_content_key(address), address))

    def submit_link(self, url: str) -> Job:
        """Take a link.

        Raises:
            Refused: as :meth:`submit_upload`, and for what is no link.
        """
        url = url.strip()
        try:
            check(url)
        except MediaError as error:
            raise Refused(422, error.failure.message, str(error.failure.error_type)) from error
        self.check_room()
        address = normalise(url)
        name = unquote(os.path.basename(urlsplit(url).path)) or urlsplit(url).hostname or url
        job = Job(new_id(), shown_name(name), time.time(), url=url)
        return self._queue(job, Video(video_id(address), UNKNOWN_CONTENT, address))

    def check_room(self) -> None:
        """See that one more video may wait.

        Raises:
            Refused: with status 503 or 429.
        """
        if self.draining:
            raise Refused(503, "the server is being stopped; try again in a minute", retry_after_s=60)
        waiting = self.jobs.of(State.QUEUED)
        if len(waiting) >= self.settings.max_queue:
            left = self._pace.seconds(waiting, self._chains.slots)
            message = f"{len(waiting)} videos wait already; try again later"
            raise Refused(429, message, "busy", max(1.0, left / 4))

    def delete(self, job: Job) -> None:
        """Forget a job and its files; what is being computed of it is still computed, for the tables."""
        if job.id not in self._tasks:
            self.jobs.delete(job)
            return
        # Its file is still read; it goes when the work is done.
        self._deleted.add(job.id)
        self._tasks[job.id].add_done_callback(lambda _: self.jobs.delete(job))

    def get(self, job_id: str) -> Job | None:
        """Return a job; None when there is none of that id, or none any more."""
        return None if job_id in self._deleted else self.jobs.get(job_id)

    def status(self, job: Job) -> dict[str, Any]:
        """Say where a job is, as the API does."""
        found: dict[str, Any] = {"id": job.id, "name": job.name, "state": str(job.state), "created": job.created}
        found |= {"video_id": job.video_id, "duration_s": job.duration_s}
        if job.state is State.QUEUED:
            waiting = self.jobs.of(State.QUEUED)
            before = [each for each in waiting if (each.created, each.id) < (job.created, job.id)]
            running = len(self._tasks)
            left = self._pace.seconds([*before, job], self._chains.slots) + self._left_of_running(running)
            found |= {"place": len(before) + 1, "eta_s": round(left, 1), "stage": job.stage or "waiting"}
        elif job.state is State.RUNNING:
            found |= self._progress(job)
        else:
            found["seconds"] = job.seconds
        if job.state is State.FAILED:
            found["error"] = {"error_type": job.error_type, "message": job.message}
        if job.is_over:
            found["result"] = job.found
        return found

    def health(self, alive: int) -> dict[str, Any]:
        """Say whether the server can work."""
        queued = len(self.jobs.of(State.QUEUED))
        status = (
            "draining" if self.draining else "ok" if alive == self._chains.count else "degraded" if alive else "down"
        )
        return {
            "status": status, "model_loaded": alive > 0, "workers": self._chains.count, "workers_alive": alive,
            "queued": queued, "running": len(self._tasks),
        }  # fmt: skip

    async def alive(self) -> int:
        """Count the chains that live."""
        return await self._chains.alive()

    # ---- work

    async def start(self) -> None:
        """Begin to work, with the jobs that were left."""
        for job in self.jobs.recover():
            self._fail(job, Failure(ErrorType.WORKER_DIED, "the server ended twice while it worked on this video"))
        self._loops = [asyncio.create_task(each()) for each in (self._work, self._fetch, self._watch, self._forget)]

    async def drain(self, seconds: float) -> None:
        """Begin nothing new, wait for what is under way, commit it and give the folder back.

        What is not done in time is begun again by the next server.
        """
        self.draining = True
        deadline = time.monotonic() + seconds
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        self._writer.stopping = True
        for task in [*self._loops, *self._tasks.values()]:
            task.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._writing.release(), max(1.0, deadline - time.monotonic()))
        self._writing.close()
        self._probe.close()

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            while not self.draining and len(self._tasks) < self._chains.slots and (job := self._next()):
                job = self.jobs.change(job, state=State.RUNNING, stage="check", begun=job.begun + 1)
                self._began[job.id] = time.monotonic()
                task = asyncio.create_task(self._run(job))
                self._tasks[job.id] = task
                task.add_done_callback(partial(self._ended, job.id))
            await self._wake.wait()

    def _ended(self, name: str, _: object) -> None:
        self._tasks.pop(name, None)
        self._began.pop(name, None)
        self._idle_since = time.monotonic()
        self._wake.set()

    def _next(self) -> Job | None:
        """The first job whose file is there and whose video nobody works on: it is answered from OUT then."""
        busy = {job.key for job in self.jobs.of(State.RUNNING)}
        waiting = (job for job in self.jobs.of(State.QUEUED) if job.stage != "fetch" and job.key not in busy)
        return next(waiting, None)

    async def _run(self, job: Job) -> None:
        began = time.monotonic()
        try:
            result = await self._label(job)
        except MediaError as error:
            self._fail(job, error.failure)
        except (RunEnded, RayError, OSError) as error:
            log.warning("job %s: %s", job.id, error)
            self._fail(job, Failure.of(error, ErrorType.IO))
        except Exception as error:
            log.exception("job %s", job.id)
            self._fail(job, Failure.of(error))
        else:
            self._finish(job, result, time.monotonic() - began)

    async def _label(self, job: Job) -> dict[str, Any]:
        """Do what is missing of a job's video; returns all that the tables say of it then."""
        video = _video(job)
        pending = await asyncio.to_thread(self._writer.pending, video, again=job.url is not None)
        seconds: dict[str, float] = {}
        if pending.rows.num_rows:
            # The folder is taken while the chains work.
            self._writing.hold()
            path = job.path or ""
            duration = await asyncio.to_thread(self._probe.duration_s, path)
            if duration is not None and duration > 60 * self.settings.max_minutes:
                message = (
                    f"the video takes {duration / 60:.0f} minutes; at most {self.settings.max_minutes:g} are taken"
                )
                raise MediaError(ErrorType.REFUSED, message)
            job = self.jobs.change(job, duration_s=duration, stage="decode")
            rows = pending.rows.set_column(
                pending.rows.schema.get_field_index("uri"), "uri", [[path] * pending.rows.num_rows]
            )
            rows = await self._chains.run(rows, video.key)
            seconds = await asyncio.to_thread(stage_seconds, rows, self._writer.specs)
            if duration is not None:
                self._pace.learn(duration, sum(seconds.values()))
            await self._writing.commit(Outcome(video, pending, rows))
        elif not await asyncio.to_thread(self._writer.is_predicted, video):
            await self._writing.commit(Outcome(video, pending))
        result = await asyncio.to_thread(self._writer.result, video)
        return result | {"stages": seconds}

    def _finish(self, job: Job, result: dict[str, Any], seconds: float) -> None:
        failures = [_for_people(failure, job) for failure in result["failures"]]
        result = {**result, "failures": failures}
        failed = result["prediction"] is None
        first = failures[0] if failures else {"error_type": "model", "message": "nothing could be predicted"}
        video = result["video"] or {}
        self.jobs.change(
            job, state=State.FAILED if failed else State.DONE, stage=None, finished=time.time(), seconds=seconds,
            result=_json(result), duration_s=video.get("duration_s"),
            error_type=first["error_type"] if failed else None, message=first["message"] if failed else None,
        )  # fmt: skip

    def _fail(self, job: Job, failure: Failure) -> None:
        found = _for_people({"error_type": str(failure.error_type), "message": failure.message}, job)
        self.jobs.change(job, state=State.FAILED, stage=None, finished=time.time(), **found)

    # ---- beside the work

    async def _fetch(self) -> None:
        """Fetch the files of links, some at a time."""
        busy: dict[str, asyncio.Task[None]] = {}
        while True:
            links = [job for job in self.jobs.of(State.QUEUED) if job.stage == "fetch" and job.id not in busy]
            for job in links[: _FETCHES - len(busy)]:
                task = busy[job.id] = asyncio.create_task(self._fetch_one(job))
                task.add_done_callback(partial(_forgotten, busy, job.id))
            await asyncio.sleep(_LOOK_EVERY_S if links or busy else 2 * _LOOK_EVERY_S)

    async def _fetch_one(self, job: Job) -> None:
        path = self.jobs.folder / "uploads" / f"link-{hashlib.sha256(job.id.encode()).hexdigest()}"
        try:
            title = await asyncio.to_thread(self._fetcher.fetch, job.url or "", path)
        except MediaError as error:
            path.unlink(missing_ok=True)
            self._fail(job, error.failure)
            return
        except Exception as error:
            log.exception("link of job %s", job.id)
            path.unlink(missing_ok=True)
            self._fail(job, Failure.of(error, ErrorType.IO))
            return
        self.jobs.change(job, path=str(path), stage=None, name=shown_name(title) if title else job.name)
        if self.jobs.get(job.id) is None:  # It was deleted meanwhile.
            path.unlink(missing_ok=True)
        self._wake.set()

    async def _watch(self) -> None:
        """Look what the chains do, and give the folder back when they do nothing."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._tasks:
                with suppress(RayError):
                    self._doing = await self._chains.quarantine.doing.remote()
            elif self._writing.is_idle and time.monotonic() - self._idle_since > _IDLE_S:
                with suppress(RunEnded, OSError):
                    await self._writing.release()

    async def _forget(self) -> None:
        while True:
            self.jobs.forget_older(time.time() - 3600 * self.settings.keep_hours)
            await asyncio.sleep(_FORGET_EVERY_S)

    # ---- details

    def _queue(self, job: Job, video: Video) -> Job:
        needs_file = job.url is not None and bool(self._writer.pending(video, again=True).rows.num_rows)
        job = Job(
            **{**vars(job), "video_id": video.video_id, "content_key": video.content_key, "uri": video.uri,
               "stage": "fetch" if needs_file else None}
        )  # fmt: skip
        self.jobs.add(job)
        self._wake.set()
        return job

    def _kept(self, upload: Upload) -> Path:
        """Give an upload the name that its bytes have, so that the same video is the same video."""
        suffix = os.path.splitext(upload.name)[1].lower()
        path = self.jobs.folder / "uploads" / f"{upload.sha256}{suffix if suffix in MEDIA_SUFFIXES else ''}"
        if path.exists():
            upload.path.unlink()
        else:
            os.utime(upload.path, ns=(_CHANGED_AT_NS, _CHANGED_AT_NS))
            upload.path.rename(path)
        return path

    def _progress(self, job: Job) -> dict[str, Any]:
        stage, begun = self._doing.get(f"{job.video_id}\0{job.content_key}", ("", []))
        order = ["decode", *self._writer.specs]
        names = [name for name in begun if name in order]
        doing = stage if stage in order else (names[-1] if names else job.stage or "check")
        if self._writer.waiting_for is not None and len(names) == len(order):
            doing = "waiting for the output folder, which a batch run holds"
        expected = self._pace.seconds([job], 1)
        gone = time.monotonic() - self._began.get(job.id, time.monotonic())
        return {
            "stage": doing, "stages": order, "stages_done": [name for name in names if name != doing],
            "eta_s": round(max(0.5, expected - gone), 1),
        }  # fmt: skip

    def _left_of_running(self, running: int) -> float:
        if running < self._chains.slots:
            return 0.0
        gone = [time.monotonic() - began for began in self._began.values()]
        return max(0.0, self._pace.seconds(self.jobs.of(State.RUNNING), self._chains.slots) - max(gone, default=0.0))


def _forgotten(tasks: dict[str, asyncio.Task[None]], name: str, _: object) -> None:
    tasks.pop(name, None)


def _video(job: Job) -> Video:
    return Video(job.video_id or "", job.content_key or "", job.uri or "")


def _for_people(failure: dict[str, Any], job: Job) -> dict[str, Any]:
    """A failure without the place of the file, which is nobody's business."""
    message = failure["message"]
    for path in filter(None, (job.path, job.uri)):
        message = message.replace(path, job.name)
    return {**failure, "message": message}


def _json(value: Any) -> str:
    return json.dumps(finite(value), ensure_ascii=True, default=str)
