"""Parts of a page: Markdown tables, text from outside that cannot become markup, pictures, HTML."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vemoclap_batch.report.digest import shorten
from vemoclap_batch.store.folder import Folder

#: Colours of the pictures.
BLUE, LIGHT_BLUE, RED, GREY = "#4c78a8", "#9ecae9", "#e45756", "#9a9a9a"
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.3rem .6rem;text-align:left}"
    "th{background:#f2f2f2}img{max-width:31rem;width:49%}code{background:#f2f2f2}"
)


def write_files(folder: str | Path | Folder, files: Mapping[str, str | bytes]) -> None:
    """Write files by name to a folder, a local path or a URI, each whole or not at all."""
    target = folder if isinstance(folder, Folder) else Folder(folder)
    for name, content in files.items():
        target.write(name, content.encode() if isinstance(content, str) else content)


def as_json(content: Any) -> str:
    """JSON as the files for people have it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """A Markdown table; with ``numbers`` all columns but the first are aligned to the right."""
    rule = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rows])


def code(text: str, limit: int = 400) -> str:
    """Text from outside as Markdown code on one line."""
    return f"`{shorten(text, limit).replace('`', chr(39))}`"


def escaped(text: str, limit: int = 300) -> str:
    """Text from outside as plain Markdown text on one line."""
    return re.sub(r"([\\`*_\[\]()#|~!<>{}])", r"\\\1", html.escape(shorten(text, limit), quote=False))


def as_html(page: str, folder: Path) -> str:
    """A Markdown page as one HTML file: raw HTML in it stays text, and pictures below the folder are embedded."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable("table")
    tokens = parser.parse(page)
    for image in (child for token in tokens for child in token.children or () if child.type == "image"):
        path = folder / str(image.attrs["src"])
        image.attrs["src"] = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    body = parser.renderer.render(tokens, parser.options, {})
    title = page.splitlines()[0].removeprefix("# ")
    head = f'<meta charset="utf-8"/><meta name="viewport" content="width=device-width"/><title>{title}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n{body}</body></html>\n'


def figure(width: float, height: float) -> Any:
    """A matplotlib figure of this size in inches, which needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def png(drawn: Any) -> bytes:
    """A figure as a PNG file."""
    sink = io.BytesIO()
    drawn.savefig(sink, format="png", dpi=120)
    return sink.getvalue()
