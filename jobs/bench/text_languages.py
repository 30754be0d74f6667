"""Whether texts that a model does not know are told from those that it knows: messages of a program in many languages.

The texts are translations of one another: short, with names in them, as what is written in videos.
"""

from __future__ import annotations

import gettext
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.report import Report, show
from bench.text_sounds import unpacked
from vemoclap_batch.cli import options as opt
from vemoclap_batch.extractors.language import KnownLanguages

#: Its messages are translated into 80 languages, and the English is in every catalogue.
PACKAGE = "python3-django"
LANGUAGES = (
    "ar", "bg", "cs", "da", "de", "el", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nb", "nl",
    "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh_Hans",
)  # fmt: skip
#: What fastText calls otherwise than the catalogues do.
_OTHER_NAMES = {"nb": "no", "zh_Hans": "zh"}
#: Of fewer words a text is a name rather than a sentence; one with these is for a program to fill in.
_FEWEST, _FILLED_IN = 3, re.compile(r"[%{<\n&]")


def messages(folder: Path) -> Iterator[tuple[str, str]]:
    """Texts with their languages, each once; ``folder`` is where the package is fetched to."""
    [locale] = unpacked(PACKAGE, folder).rglob("django/conf/locale")
    seen: set[str] = set()
    for language in LANGUAGES:
        with (locale / language / "LC_MESSAGES" / "django.mo").open("rb") as file:
            # The one way to all of a catalogue's texts.
            catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for english, text in catalogue.items():
            if not isinstance(english, str) or len(english.split()) < _FEWEST or english == text:
                continue
            for name, said in (("en", english), (_OTHER_NAMES.get(language, language), text)):
                if said not in seen and not _FILLED_IN.search(english + said):
                    seen.add(said)
                    yield name, said


def measure(texts: list[tuple[str, str]], source: str) -> Report:
    """Give texts, each with its language, to what a model that knows English reads them through."""
    known = KnownLanguages()
    began = time.process_time()
    checked = [known(text) for _, text in texts]
    taken = time.process_time() - began
    rows: list[dict[str, Any]] = []
    for language in sorted({name for name, _ in texts}):
        own = [item for (name, _), item in zip(texts, checked, strict=True) if name == language]
        out = sum(not item.text for item in own)
        named = sum(item.guess.language == language for item in own)
        rows.append(
            {
                "language": language,
                "texts": len(own),
                "left_out_percent": round(100 * out / len(own), 1),
                "named_percent": round(100 * named / len(own), 1),
            }
        )
    english = [(text, item) for (name, text), item in zip(texts, checked, strict=True) if name == "en"]
    lost = [text for text, item in english if not item.text]
    shortened = sum(bool(item.note and item.text) for _, item in english)
    foreign = [item for (name, _), item in zip(texts, checked, strict=True) if name != "en"]
    figures = {
        "english_lost_percent": round(100 * len(lost) / max(1, len(english)), 2),
        "english_shortened_percent": round(100 * shortened / max(1, len(english)), 2),
        "ms_per_text": round(1000 * taken / len(texts), 3),
    }
    if foreign:
        figures["foreign_left_out_percent"] = round(100 * sum(not item.text for item in foreign) / len(foreign), 1)
    settings = {"source": source, "texts": len(texts), "identifier": KnownLanguages.weights()}
    return Report("text languages", settings, rows, figures, [f"lost: {text[:80]}" for text in lost[:20]])


def command(
    folder: Annotated[Path, typer.Option(help="Where the package is fetched to, and found the next time.")],
    english: Annotated[
        Path | None, typer.Option(help="A file of English texts, one a line up to its first tab, in place of them.")
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Which texts a model that knows English is given, by language."""
    if english is None:
        texts, source = list(messages(folder)), PACKAGE
    else:
        lines = english.read_text(encoding="utf-8").splitlines()
        texts, source = [("en", line.partition("\t")[0]) for line in lines if line.strip()], english.name
    show(measure(texts, source), as_json)
