"""The REST API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Path, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from vemoclap_batch import __version__
from vemoclap_batch.app.answers import Refusal
from vemoclap_batch.app.jobs import Job
from vemoclap_batch.app.preview import Previews
from vemoclap_batch.app.service import Service
from vemoclap_batch.app.taken import Refused
from vemoclap_batch.app.upload import read_request
from vemoclap_batch.app.view import webvtt

_ABOUT = """Label the emotion of a video: send one, then ask for it until it is `done` or `failed`.

A result can be asked for by whoever has its `id`, which cannot be guessed, and by nobody else."""


class Accepted(BaseModel):
    """A video that was taken."""

    id: str = Field(description="names the video to you")
    state: str = "queued"


class Error(BaseModel):
    """What is wrong, in the words and codes of the errors table."""

    error_type: str
    message: str


class Progress(BaseModel):
    """Where a video is.

    ``place`` and ``eta_s`` are there while it waits, ``stage``, ``stages``, ``stages_done`` and ``eta_s`` while it is
    worked on, ``result`` once it is over, ``error`` where it failed.
    """

    id: str
    name: str
    state: str = Field(description="queued, running, done or failed")
    created: float
    video_id: str | None = Field(None, description="as in the tables of OUT")
    duration_s: float | None = None
    place: int | None = Field(None, description="in the queue, from 1")
    eta_s: float | None = Field(None, description="seconds until it is over, about")
    stage: str | None = None
    stages: list[str] | None = None
    stages_done: list[str] | None = None
    seconds: float | None = Field(None, description="from its turn to its end")
    error: Error | None = None
    result: dict[str, Any] | None = Field(
        None, description="video, prediction, extractors (their columns), failures, stages (seconds of each)"
    )


class Health(BaseModel):
    """Whether the server can work."""

    status: str = Field(description="ok, degraded (some chain is being started again), down or draining")
    model_loaded: bool
    workers: int
    workers_alive: int
    queued: int
    running: int


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}, "url": {"type": "string"}},
                }
            },
            "application/json": {"schema": {"type": "object", "properties": {"url": {"type": "string"}}}},
        },
    }
}
_WRONG: dict[int | str, dict[str, Any]] = {
    code: {"description": text}
    for code, text in {
        400: "no such form", 408: "too slow", 413: "too large", 415: "no such kind of request",
        422: "no link that can be fetched", 429: "too many videos, with Retry-After", 503: "being stopped",
        507: "the disk is full",
    }.items()
}  # fmt: skip
Id = Path(description="of POST /v1/videos", pattern=r"^[A-Za-z0-9_-]{1,64}$")


def build_api(service: Service) -> FastAPI:
    """Make the application."""
    app = FastAPI(
        title="vemoclap-batch", version=__version__, description=_ABOUT, redoc_url=None, redirect_slashes=False
    )

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return Refusal(error.status, error.error_type, str(error), error.retry_after_s)

    def wanted(id: str) -> Job:
        job = service.get(id)
        if job is None:
            raise Refused(404, "there is no video of this id, or none any more", "not_found")
        return job

    @app.get("/healthz", response_model=Health)
    async def healthz() -> Response:
        """Say whether the models are loaded and the workers live; 503 if not."""
        found = service.health(await service.alive())
        return JSONResponse(found, 200 if found["status"] in {"ok", "degraded"} else 503)

    @app.post("/v1/videos", status_code=202, response_model=Accepted, responses=_WRONG, openapi_extra=_FORM)
    async def submit(request: Request) -> Any:
        """Send a video (`file`) or a link to one (`url`)."""
        # Before the body is read: who is to wait need not send it first.
        service.check_room()
        given = await read_request(request, service.jobs.folder / "uploads", service.settings.max_bytes)
        job = service.submit_link(given) if isinstance(given, str) else service.submit_upload(given)
        return JSONResponse({"id": job.id, "state": str(job.state)}, 202, {"Location": f"/v1/videos/{job.id}"})

    @app.get("/v1/videos/{id}", response_model=Progress, response_model_exclude_none=True)
    async def status(id: str = Id) -> Any:
        """Ask where a video is, and what was found in it."""
        return JSONResponse(service.status(wanted(id)), headers={"Cache-Control": "no-store"})

    @app.post("/v1/samples/{number}", status_code=202, response_model=Accepted)
    async def sample(number: int) -> Any:
        """Send one of the server's sample clips."""
        if not 0 <= number < len(service.samples):
            raise Refused(404, "there is no such sample", "not_found")
        path = service.samples[number]
        job = service.submit_file(path, path.name)
        return JSONResponse({"id": job.id, "state": str(job.state)}, 202)

    @app.delete("/v1/videos/{id}", status_code=204)
    async def delete(id: str = Id) -> Response:
        """Forget a video: its file, its preview and its id. What was extracted stays in the tables of OUT."""
        service.delete(wanted(id))
        return Response(status_code=204)

    _add_downloads(app, service, wanted)
    return app


def _add_downloads(app: FastAPI, service: Service, wanted: Callable[[str], Job]) -> None:
    """Add what is made of a video and of its result."""
    previews = Previews(service.jobs, 60 * service.settings.max_minutes)

    def done(id: str) -> Job:
        job = wanted(id)
        if not job.found:
            raise Refused(409, "nothing was found in this video yet", "not_found", 1 if not job.is_over else None)
        return job

    @app.get("/v1/videos/{id}/preview")
    async def preview(id: str = Id) -> Response:
        """Ask for a small H.264 and AAC version, which every browser plays."""
        path = await previews.preview(wanted(id))
        if path is None:
            raise Refused(404, "there is no preview of this video", "not_found")
        return FileResponse(path, media_type="video/mp4")

    @app.get("/v1/videos/{id}/frames/{number}.jpg")
    async def frame(number: int, id: str = Id) -> Response:
        """Ask for a frame with faces."""
        path = await previews.picture(wanted(id), number)
        if path is None:
            raise Refused(404, "there is no such frame", "not_found")
        return FileResponse(path, media_type="image/jpeg")

    @app.get("/v1/videos/{id}/result.json")
    async def result(id: str = Id) -> Response:
        """Download what was found."""
        headers = {"Content-Disposition": 'attachment; filename="result.json"'}
        return JSONResponse(service.status(done(id)), headers=headers)

    @app.get("/v1/videos/{id}/speech.vtt")
    async def speech(id: str = Id) -> Response:
        """Download what is said as subtitles (WebVTT)."""
        headers = {"Content-Disposition": 'attachment; filename="speech.vtt"'}
        return Response(webvtt(done(id).found or {}), media_type="text/vtt", headers=headers)
