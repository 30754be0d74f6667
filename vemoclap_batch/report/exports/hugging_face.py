"""A data set as the Hugging Face hub and its library take it: Parquet files and a card that says which are what."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from vemoclap_batch.report.exports.tables import Tables

#: A file is ended when it has so many bytes: the hub takes and serves ones of this size best.
_FILE_BYTES = 500 * 2**20
_CARD = """\
# Emotions of videos

Made by vemoclap-batch: predictions of its model `{model}` ({labels}),
and what it heard, read and saw. They are guesses of a model, no facts about people.

| configuration | a row for each |
| --- | --- |
{tables}

`load_dataset(FOLDER, "emotions", split="train")` loads one. `label`, `confidence` and the probabilities `p_…` are null
where there was nothing to go by; `missing` names the features that were absent. `given_label` and `given_split` are
those of a labels file, if one was given. Times are seconds of the video at `uri`, which is not part of the data set.
"""
_ROWS = {
    "emotions": "video, or window of one",
    "speech": "segment of speech, in English",
    "text": "line of text in a frame",
    "faces": "face in a frame that was looked at, with its box",
}


class HuggingFace(Tables):
    """One configuration for each table, since files of different columns are no data set."""

    name, suffix = "hf", ".parquet"
    on_request = ("features",)

    def __init__(self, *arguments: Any) -> None:
        self._files: dict[str, int] = {}
        super().__init__(*arguments)

    def open(self, name: str, schema: pa.Schema) -> pq.ParquetWriter:
        """Begin the next file of a table."""
        number = self._files[name] = self._files.get(name, -1) + 1
        path = self.folder / "data" / name / f"part-{number:05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        return pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, name: str, rows: pa.Table) -> None:
        """Add rows to a table."""
        writer = self._writers[name]
        writer.write_table(rows.cast(writer.schema))
        if writer.file_handle.tell() > _FILE_BYTES:
            writer.close()
            self._writers[name] = self.open(name, writer.schema)

    def close(self) -> None:
        """End the files and write the card."""
        super().close()
        configs = [
            {"config_name": name, "data_files": [{"split": "train", "path": f"data/{name}/*.parquet"}]}
            for name in self._writers
        ]
        header = {
            "pretty_name": "Emotions of videos",
            "task_categories": ["video-classification"],
            "tags": ["emotion", "video"],
            "configs": configs,
        }
        tables = "\n".join(f"| `{name}` | {_ROWS.get(name, 'video')} |" for name in self._writers)
        labels = ", ".join(self.source.labels)
        card = _CARD.format(model=self.source.model or "none", labels=labels or "no labels", tables=tables)
        text = f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{card}"
        (self.folder / "README.md").write_text(text, encoding="utf-8")
