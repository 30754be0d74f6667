"""The formats there are, and what each of them holds."""

from __future__ import annotations

from vemoclap_batch.report.exports.base import CONTENTS, Format
from vemoclap_batch.report.exports.captions import Srt, WebVtt
from vemoclap_batch.report.exports.elan import Elan
from vemoclap_batch.report.exports.fiftyone import FiftyOne
from vemoclap_batch.report.exports.hugging_face import HuggingFace
from vemoclap_batch.report.exports.label_studio import LabelStudio
from vemoclap_batch.report.exports.tables import Csv, JsonLines, Parquet
from vemoclap_batch.report.exports.via import Via

__all__ = ["CONTENTS", "FORMATS", "Format"]

_ALL: tuple[type[Format], ...] = (
    Csv, JsonLines, Parquet, HuggingFace, WebVtt, Srt, LabelStudio, FiftyOne, Elan, Via,
)  # fmt: skip
FORMATS: dict[str, type[Format]] = {form.name: form for form in _ALL}
