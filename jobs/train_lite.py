"""Train the checkpoints that the package carries for the lite profile: python jobs/train_lite.py --data DIR."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import vemoclap_batch
from lite import sets
from lite.fusion_training import Sets, train_lite_fusion
from vemoclap_batch.cli.common import print_json, program, run_program

FER = "fer2013_train_val.parquet"
WEIGHTS = Path(vemoclap_batch.__file__).parent / "weights"
#: How often an utterance is heard again, changed, in training.
COPIES = 3
DATA = {
    "faces": "FER-2013 (research data set), train split",
    "sound": "RAVDESS speakers 01-16, CC BY-NC-SA 4.0",
    "text": "GoEmotions, comments with one Ekman label, train split; repository Apache-2.0, data CC BY 4.0",
}
NOT_FOR = (
    "decisions about people: hiring, policing, credit, medicine, education or any use that judges someone by their "
    "face or voice; it sees expressions that actors and search engines called an emotion, not what a person feels"
)


app = program(__doc__)


@app.command(help=__doc__)
def train_lite(
    data: Annotated[Path, typer.Option(help="Folder with fer2013, ravdess and goemotions.")],
    out: Annotated[Path, typer.Option(help="Where the fusion checkpoint goes.")] = WEIGHTS,
    expression: Annotated[
        bool, typer.Option("--expression", help="Train the package's expression network first (an hour).")
    ] = False,
    voice: Annotated[
        bool, typer.Option("--voice", help="Fit the package's projection of the audio first (five minutes).")
    ] = False,
    multilingual: Annotated[
        bool, typer.Option("--multilingual", help="Fit the map of texts in other languages first (five minutes).")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps the sets' features for the next time.")] = None,
) -> None:
    """Read the sets through the lite extractors, train the fusion, write the checkpoint and print its scores."""
    if expression:
        from lite.expression_training import train_expression_net

        train_expression_net(data / FER, WEIGHTS / "expression.safetensors")
    if voice:
        from lite.voice_training import train_voice_projection
        from vemoclap_batch.extractors.whisper_weights import bundled_folder

        whisper = bundled_folder() / "model.bin"
        train_voice_projection(data / "ravdess" / "manifest.csv", whisper, WEIGHTS / "voice.safetensors")
    if multilingual:
        from lite.multilingual_training import train_multilingual_map

        train_multilingual_map(data / "goemotions_ekman_train.tsv", WEIGHTS / "multilingual.safetensors")
    training, validation = read_split(data, "train", cache), read_split(data, "val", cache)
    checkpoint = train_lite_fusion(training, validation)
    checkpoint.card |= {"data": DATA, "must_not_be_used_for": NOT_FOR}
    checkpoint.save(out / "lite-fusion", half=True)
    print_json(checkpoint.card["scores"])


def read_split(data: Path, split: str, cache: Path | None) -> Sets:
    """The three sets of one split, as features."""
    fer, ravdess, labels = data / FER, data / "ravdess" / "manifest.csv", data / "goemotions_ekman_labels.txt"
    copies = COPIES if split == "train" else 0
    names = {"train": ("train", "train", "train"), "val": ("validation", "val", "dev")}[split]
    text = data / f"goemotions_ekman_{names[2]}.tsv"
    return Sets(
        faces=sets.cached(cache, f"faces-{split}", sets.FACES, lambda: sets.read_faces(fer, names[0])),
        sound=sets.cached(
            cache, f"sound-{split}-{copies}", sets.SOUND, lambda: sets.read_sound(ravdess, names[1], copies)
        ),
        text=sets.cached(cache, f"text-{split}", sets.TEXT, lambda: sets.read_text(text, labels)),
    )


if __name__ == "__main__":
    run_program(app)
