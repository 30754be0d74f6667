"""Score the lite checkpoints on labelled sets, each modality alone through the fused model.

The last line of standard output holds the scores as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn

import typer

from lite import sets
from lite.fusion_training import score_alone
from vemoclap_batch import Output, label
from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import print_json, program, run_program
from vemoclap_batch.config import LABELS, load_config, own_checkpoint
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.checkpoint import Checkpoint

app = program(__doc__)


@app.command(help=__doc__)
def evaluate_lite(
    faces: Annotated[Path | None, typer.Option(help="Parquet with image (JPEG) and label, as FER-2013's.")] = None,
    audio: Annotated[Path | None, typer.Option(help="CSV with path (relative to it) and label.")] = None,
    text: Annotated[Path | None, typer.Option(help="TSV of text, label indices, id.")] = None,
    text_labels: Annotated[Path | None, typer.Option(help="The labels that the indices stand for, one a line.")] = None,
    videos: Annotated[Path | None, typer.Option(help="Folder of videos; those named after a label are scored.")] = None,
    _: opt.Json = False,
) -> None:  # fmt: skip
    """Score what was given."""
    if text and not text_labels:
        raise ConfigError(["--text: needs --text-labels"])
    checkpoint = Checkpoint.load(own_checkpoint(load_config("lite")))
    scores: dict[str, Any] = {}
    if faces:
        from lite.expression_training import evaluate_expression_net
        from vemoclap_batch.extractors.face_expression import WEIGHTS

        scores["faces"] = _some(score_alone(checkpoint, sets.read_faces(faces), sets.FACES), "accuracy", "macro_f1")
        scores["expression_network"] = _some(evaluate_expression_net(WEIGHTS, faces), "accuracy")
    if audio:
        scores["audio"] = _some(score_alone(checkpoint, sets.read_sound(audio), sets.SOUND), "accuracy", "uar")
    if text and text_labels:
        read = sets.read_text(text, text_labels)
        scores["text"] = _some(score_alone(checkpoint, read, sets.TEXT), "accuracy", "macro_f1")
    if videos:
        scores["videos"] = _score_videos(videos)
    print_json(scores)


def _some(scores: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: scores[name] for name in (*names, "n")}


def _score_videos(folder: Path) -> dict[str, Any]:
    """Label every video with the whole pipeline; the accuracy is over those whose stem is a label."""
    with TemporaryDirectory() as out:
        label(folder, out)
        rows = Output(out).predictions().to_pylist()
    predictions = {str(Path(row["uri"]).relative_to(folder.absolute())): row["label"] for row in rows}
    given = {name: Path(name).stem.lower() for name in predictions if Path(name).stem.lower() in LABELS}
    hits = [predictions[name] == wanted for name, wanted in given.items()]
    return {"accuracy": sum(hits) / len(hits) if hits else None, "n": len(hits), "predictions": predictions}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program."""
    run_program(app, arguments)


if __name__ == "__main__":
    main()
