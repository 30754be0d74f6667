"""Score the lite checkpoints on labelled sets, each modality alone through the fused model: see --help."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lite import sets
from lite.fusion_training import score_alone
from vemoclap_batch.cli.common import default_checkpoint
from vemoclap_batch.config import LABELS, load_config
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.pipeline.run import Classifier, run
from vemoclap_batch.sources.manifest import read_sources


def main() -> None:
    """Print the scores as one JSON object, the last line of standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path, help="Parquet with image (JPEG bytes) and label, as FER-2013's")
    parser.add_argument("--audio", type=Path, help="CSV with path (relative to it) and label")
    parser.add_argument("--text", type=Path, help="TSV of text, label indices, id")
    parser.add_argument("--text-labels", type=Path, help="the labels that the indices stand for, one a line")
    parser.add_argument("--videos", type=Path, help="folder of videos; a file called after a label is scored")
    parser.add_argument("--json", action="store_true", help="accepted for symmetry: the JSON is always printed")
    arguments = parser.parse_args()
    if arguments.text and not arguments.text_labels:
        parser.error("--text needs --text-labels")
    print(json.dumps(evaluate(arguments)))


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """The scores of what was given."""
    folder = default_checkpoint(load_config("lite"))
    checkpoint = Checkpoint.load(folder)
    found: dict[str, Any] = {}
    if arguments.faces:
        from lite.expression_training import evaluate_expression_net
        from vemoclap_batch.extractors.face_expression import WEIGHTS

        faces = score_alone(checkpoint, sets.read_faces(arguments.faces), sets.FACES)
        found["faces"] = _some(faces, "accuracy", "macro_f1", "n")
        network = evaluate_expression_net(WEIGHTS, arguments.faces)
        found["expression_network"] = _some(network, "accuracy", "n")
    if arguments.audio:
        sound = score_alone(checkpoint, sets.read_sound(arguments.audio), sets.SOUND)
        found["audio"] = _some(sound, "accuracy", "uar", "n")
    if arguments.text:
        text = score_alone(checkpoint, sets.read_text(arguments.text, arguments.text_labels), sets.TEXT)
        found["text"] = _some(text, "accuracy", "macro_f1", "n")
    if arguments.videos:
        found["videos"] = _videos(str(arguments.videos), folder)
    return found


def _some(scores: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: scores[name] for name in names}


def _videos(folder: str, checkpoint: str) -> dict[str, Any]:
    """Predictions of every video through the whole pipeline; accuracy over those whose stem is a label."""
    config = load_config("lite")
    with TemporaryDirectory() as out:
        done = run(read_sources([folder]).rows, out, config, Classifier.load(checkpoint))
        rows = done.predicted.table.read(["uri", "label"]).to_pylist() if done.predicted else []
    predictions = {str(Path(row["uri"]).relative_to(Path(folder).absolute())): row["label"] for row in rows}
    given = {name: Path(name).stem.lower() for name in predictions if Path(name).stem.lower() in LABELS}
    hits = [predictions[name] == label for name, label in given.items()]
    return {"accuracy": sum(hits) / len(hits) if hits else None, "n": len(hits), "predictions": predictions}


if __name__ == "__main__":
    main()
