"""What was found in a video, as HTML: every text of a video or its name is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from vemoclap_batch.app.preview import shown_frames
from vemoclap_batch.report.digest import NOTHING, clock

_SHORT_SIDE = 360
_ITEMS = 400
#: What the stages of the published system are called for people.
_NAMES = {
    "check": "checking the file", "decode": "taking frames and sound", "clip": "looking at frames",
    "face_emotion": "finding faces and expressions", "ocr": "reading text", "beats": "listening to sounds",
    "asr": "hearing speech", "asr_sentiment": "weighing what is said", "ocr_sentiment": "weighing what is written",
    "caption": "describing a frame", "fetch": "fetching the link", "waiting": "waiting",
}  # fmt: skip


def stage_name(stage: str) -> str:
    """Say what a stage does."""
    return _NAMES.get(stage, stage)


def progress(status: Mapping[str, Any]) -> str:
    """Show where a job is."""
    eta = f"about {math.ceil(status['eta_s'])} s left" if status.get("eta_s") else ""
    if status["state"] == "queued":
        doing = "Fetching the link" if status.get("stage") == "fetch" else "Waiting"
        return _box(f"{doing}: place {status['place']} in the queue, {eta}.", "")
    done, stages = status.get("stages_done", []), status.get("stages", [])
    steps = "".join(
        f'<li class="{"done" if name in done else "now" if name == status["stage"] else ""}">'
        f"{escape(stage_name(name))}{' ✓' if name in done else ''}</li>"
        for name in stages
    )
    bar = f'<progress max="{max(len(stages), 1)}" value="{len(done)}" aria-label="stages done"></progress>'
    return _box(
        f"{escape(stage_name(status['stage'])).capitalize()}, {eta}.", f'{bar}<ol class="vc-steps">{steps}</ol>'
    )


def _box(line: str, more: str) -> str:
    return f'<div class="vc-progress" role="status"><p>{line}</p>{more}</div>'


def failure(message: str) -> str:
    """Show why something could not be done."""
    return (
        f'<div class="vc-error" role="alert"><p><strong>That did not work.</strong> {escape(message)}</p>'
        "<p>What works: video or sound files such as MP4, MOV, MKV, WebM, AVI, MP3 or WAV, and links to them.</p></div>"
    )


def result(status: Mapping[str, Any]) -> str:
    """Show all that was found in a video."""
    found = status["result"]
    base = f"v1/videos/{escape(status['id'])}"
    extractors = found["extractors"]
    parts = [
        f'<h2 id="vc-title">{escape(status["name"])}</h2>',
        _emotion(found["prediction"]),
        f'<video id="vc-player" controls preload="metadata" src="{base}/preview" aria-label="the video"></video>',
        _timeline(found),
        _section("What is said", _speech(extractors.get("asr"))),
        _section("What is written", _lines(extractors.get("ocr"))),
        _section("Faces and expressions", _faces(found, base)),
        _section("What is heard", _sounds(extractors.get("beats"))),
        _section("What is seen", _seen(extractors)),
        _section("Notes", _notes(found)),
        _downloads(base, extractors),
    ]
    return f'<article class="vc-result" aria-labelledby="vc-title">{"".join(parts)}</article>'


def _section(title: str, content: str) -> str:
    return f"<section><h3>{title}</h3>{content}</section>" if content else ""


def _emotion(prediction: Mapping[str, Any] | None) -> str:
    if prediction is None or prediction["label"] is None:
        return f'<p class="vc-emotion">{NOTHING if prediction else "no emotion could be told"}</p>'
    probabilities = sorted(prediction["probabilities"].items(), key=lambda item: -(item[1] or 0))
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td><meter min="0" max="1" value="{share:.3f}" '
        f'aria-label="{escape(label)}">{share:.0%}</meter></td><td>{share:.1%}</td></tr>'
        for label, share in probabilities
    )
    likely = prediction.get("label_set")
    among = f"<p>Nine times in ten it is one of: <strong>{escape(', '.join(likely))}</strong>.</p>" if likely else ""
    affect = ""
    if prediction["valence"] is not None:
        affect = (
            f"<p>Valence {prediction['valence']:+.2f} (unpleasant −1 to pleasant +1), "
            f"arousal {prediction['arousal']:+.2f} (calm −1 to excited +1).</p>"
        )
    missing = prediction.get("missing")
    without = f"<p>Nothing was found for: {escape(', '.join(missing))}.</p>" if missing else ""
    return (
        f'<p class="vc-emotion">{escape(prediction["label"])} <span>{prediction["confidence"]:.0%}</span></p>'
        f'<table class="vc-bars"><caption>Probabilities</caption><tbody>{rows}</tbody></table>{among}{affect}{without}'
    )


def _timeline(found: Mapping[str, Any]) -> str:
    """Rows of what is when; a click on an item seeks there."""
    duration = (found["video"] or {}).get("duration_s") or 0
    if not duration:
        return ""
    extractors = found["extractors"]
    rows = [
        ("speech", [(s["start_s"], s["end_s"], s["text"]) for s in _list(extractors, "asr", "segments")]),
        (
            "text",
            [(t["time_s"], t["time_s"], t["text"]) for t in _list(extractors, "ocr", "lines") if not t.get("note")],
        ),
        ("faces", [(f["time_s"], f["time_s"], f["expression"]) for f in _list(extractors, "face_emotion", "faces")]),
    ]
    shown = "".join(
        f'<div class="vc-row"><span>{name}</span><div>{"".join(_items(items, duration))}</div></div>'
        for name, items in rows
        if items
    )
    return f'<section class="vc-timeline"><h3>Time line</h3>{shown}</section>' if shown else ""


def _items(items: Iterable[tuple[float, float, str]], duration: float) -> Iterable[str]:
    at: dict[tuple[float, float], list[str]] = {}
    for start, end, text in items:
        at.setdefault((start, end), []).append(text)
    for (start, end), texts in list(at.items())[:_ITEMS]:
        left, width = 100 * min(start / duration, 1), 100 * max(0.0, min(end, duration) - start) / duration
        label = f"{clock(start)} {'; '.join(dict.fromkeys(texts))}"
        place = f"left:min({left:.2f}%,100% - 10px);width:max({width:.2f}%,10px)"
        text = escape(label[:300])
        yield (
            f'<button type="button" data-seek="{start:.2f}" style="{place}" '
            f'title="{text}" aria-label="{text}"></button>'
        )


def _list(extractors: Mapping[str, Any], name: str, column: str) -> list[dict[str, Any]]:
    return (extractors.get(name) or {}).get(column) or []


def _seek(time: float) -> str:
    at = clock(time)
    return f'<button type="button" class="vc-time" data-seek="{time:.2f}" aria-label="go to {at}">{at}</button>'


def _speech(asr: Mapping[str, Any] | None) -> str:
    if asr is None:
        return ""
    if not asr.get("text"):
        return "<p>No speech.</p>"
    segments = asr.get("segments")
    if segments is None:
        return f"<p>{escape(asr['text'])}</p>"
    said = "".join(f"<li>{_seek(item['start_s'])} {escape(item['text'])}</li>" for item in segments[:_ITEMS])
    found = f'<ol class="vc-lines">{said}</ol>'
    if asr.get("language") not in {None, "en"} and asr.get("text_original"):
        language = escape(asr["language"])
        found += f'<h4>In the language spoken ({language})</h4><p lang="{language}">{escape(asr["text_original"])}</p>'
    return found


def _lines(ocr: Mapping[str, Any] | None) -> str:
    if ocr is None:
        return ""
    first: dict[str, float] = {}
    for line in ocr.get("lines") or ():
        if not line.get("note"):
            first.setdefault(line["text"], line["time_s"])
    if not first:
        return "<p>No text.</p>"
    items = "".join(f"<li>{_seek(time)} {escape(text)}</li>" for text, time in list(first.items())[:_ITEMS])
    return f'<ul class="vc-lines">{items}</ul>'


def _faces(found: Mapping[str, Any], base: str) -> str:
    faces, video = _list(found["extractors"], "face_emotion", "faces"), found["video"] or {}
    if "face_emotion" not in found["extractors"]:
        return ""
    if not faces or not video.get("width"):
        return "<p>No face.</p>"
    scale = min(1.0, _SHORT_SIDE / min(video["width"], video["height"]))
    width, height = video["width"] * scale, video["height"] * scale
    figures = []
    for number, (frame, time) in enumerate(shown_frames(found)):
        of_frame = [face for face in faces if face["frame"] == frame]
        boxes = "".join(_face_box(face, width, height) for face in of_frame)
        names = ", ".join(escape(face["expression"] or "") for face in of_frame)
        figures.append(
            f'<figure><div class="vc-frame"><img loading="lazy" src="{base}/frames/{number}.jpg" '
            f'alt="frame at {clock(time)}: {names}">{boxes}</div>'
            f"<figcaption>{_seek(time)} {names}</figcaption></figure>"
        )
    return f'<div class="vc-faces">{"".join(figures)}</div>'


def _face_box(face: Mapping[str, Any], width: float, height: float) -> str:
    left, top = 100 * face["x"] / width, 100 * face["y"] / height
    place = (
        f"left:{left:.1f}%;top:{top:.1f}%;width:{100 * face['w'] / width:.1f}%;height:{100 * face['h'] / height:.1f}%"
    )
    return f'<span class="vc-face" style="{place}" aria-hidden="true"></span>'


def _sounds(beats: Mapping[str, Any] | None) -> str:
    if beats is None:
        return ""
    if beats.get("events"):
        return _shares(beats["events"])
    described = {
        "loudness_db": ("loudness", "{:.0f} dBFS"), "pitch_hz": ("pitch", "{:.0f} Hz"),
        "voiced_fraction": ("with a pitch", "{:.0%} of the time"), "syllable_rate": ("syllables", "{:.1f} a second"),
    }  # fmt: skip
    there = [(name, text.format(beats[key])) for key, (name, text) in described.items() if beats.get(key) is not None]
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in there)
    return f"<dl>{rows}</dl>" if rows else ""


def _shares(items: Sequence[Mapping[str, Any]]) -> str:
    shown = "".join(f"<li>{escape(str(item['label']))} {item['probability'] or 0:.0%}</li>" for item in items[:10])
    return f"<ul>{shown}</ul>"


def _seen(extractors: Mapping[str, Any]) -> str:
    caption = (extractors.get("caption") or {}).get("caption")
    tags = _list(extractors, "clip", "tags")
    return (f"<p>{escape(str(caption))}</p>" if caption else "") + (_shares(tags) if tags else "")


def _notes(found: Mapping[str, Any]) -> str:
    notes = [*((found["video"] or {}).get("warnings") or [])]
    notes += [f"{each['extractor'] or 'decode'} failed: {each['message']}" for each in found["failures"]]
    return "".join(f"<p>{escape(note)}</p>" for note in notes)


def _downloads(base: str, extractors: Mapping[str, Any]) -> str:
    links = [(f"{base}/result.json", "JSON")]
    if _list(extractors, "asr", "segments"):
        links.append((f"{base}/speech.vtt", "Subtitles (WebVTT)"))
    items = "".join(f'<li><a href="{address}" download>{name}</a></li>' for address, name in links)
    return f'<section><h3>Downloads</h3><ul class="vc-downloads">{items}</ul></section>'


def webvtt(found: Mapping[str, Any]) -> str:
    """Return what is said as subtitles."""
    cues = ["WEBVTT\n"]
    for item in _list(found["extractors"], "asr", "segments"):
        # A blank line ends a cue, and an arrow makes another one.
        text = " ".join(item["text"].split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        start, end = item["start_s"], max(item["end_s"], item["start_s"] + 0.001)
        cues.append(f"{_vtt_time(start)} --> {_vtt_time(end)}\n{text}\n")
    return "\n".join(cues)


def _vtt_time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
