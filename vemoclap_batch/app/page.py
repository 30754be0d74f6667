"""The page: Gradio, mounted beside the API, which takes the files and links."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from vemoclap_batch.app import view
from vemoclap_batch.app.service import Service
from vemoclap_batch.app.sites import is_available

_HERE = Path(__file__).parent
_LOOK_EVERY_S = 0.5
#: Pages that are told at a time how far their video is, and those that wait for that.
_FOLLOWED, _MOST = 200, 500
_ABOUT = """# VEMOCLAP: the emotion of a video
Send a video, or a link to one. You see its emotion and what it is told by: faces, speech, text, sounds, pictures."""


def mount_page(app: FastAPI, service: Service) -> FastAPI:
    """Put the page at the root of the application."""
    # Gradio reports who uses it, unless told before it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    with gradio.Blocks(title="VEMOCLAP", analytics_enabled=False) as blocks:
        gradio.Markdown(_ABOUT)
        gradio.HTML(_drop_zone(service))
        with gradio.Row(equal_height=True):
            link = gradio.Textbox(label=_link_label(), placeholder="https://…", scale=4, elem_id="vc-link")
            send = gradio.Button("Label the link", scale=1, elem_id="vc-send")
        for event in (link.submit, send.click):
            event(None, link, None, js="(url) => { window.vemoclap.link(url); }")
        if service.samples:
            gradio.Markdown("Or try a sample:")
            with gradio.Row():
                for number, path in enumerate(service.samples):
                    sample = gradio.Button(path.stem, elem_id=f"vc-sample-{number}")
                    sample.click(None, None, None, js=f"() => {{ window.vemoclap.sample({number}); }}")
        shown = gradio.HTML("", elem_id="vc-shown")

        async def follow(request: gradio.Request) -> AsyncIterator[str]:
            async for each in _followed(service, str(request.query_params.get("id", ""))):
                yield each

        # Gradio looks here for what it is to hand over; as text it would not find the class.
        follow.__annotations__["request"] = gradio.Request
        blocks.load(follow, None, shown, show_progress="hidden", concurrency_limit=_FOLLOWED)
    blocks.queue(max_size=_MOST, default_concurrency_limit=_FOLLOWED)
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    return gradio.mount_gradio_app(
        app, blocks, path="/", ssr_mode=False, show_error=False, footer_links=[], max_file_size=1,
        theme=gradio.themes.Default(**fonts), css=(_HERE / "page.css").read_text("utf-8"),
        head=f"<script>{(_HERE / 'page.js').read_text('utf-8')}</script>",
    )  # fmt: skip


def _drop_zone(service: Service) -> str:
    settings = service.settings
    return (
        f'<label class="vc-drop" id="vc-drop" data-max-bytes="{settings.max_bytes}">Drop a video here or choose a file '
        f"(at most {settings.max_mb:g} MB and {settings.max_minutes:g} minutes)"
        '<input type="file" id="vc-file" accept="video/*,audio/*,.mkv,.avi,.ts,.mxf,.vob,.flv,.wmv"></label>'
        '<div id="vc-message" aria-live="polite"></div>'
    )


def _link_label() -> str:
    return "Link to a video file" + (", or to its page on a site that yt-dlp knows" if is_available() else "")


async def _followed(service: Service, job_id: str) -> AsyncIterator[str]:
    """Show a job until it is over."""
    if not job_id:
        yield ""
        return
    before = ""
    while True:
        job = service.get(job_id)
        if job is None:
            yield view.failure("There is no video of this id, or none any more.")
            return
        status = service.status(job)
        if job.is_over:
            break
        shown = view.progress(status)
        if shown != before:
            yield shown
        before = shown
        await asyncio.sleep(_LOOK_EVERY_S)
    found = status["result"]
    wrong = view.failure(status["error"]["message"]) if "error" in status else ""
    told = found is not None and (found["prediction"] is not None or found["extractors"])
    yield wrong + (view.result(status) if told else f"<p>{escape(status['name'])}</p>")
