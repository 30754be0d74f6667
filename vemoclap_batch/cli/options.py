"""Arguments and options that several commands have, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

Sources = Annotated[list[str], typer.Argument(metavar="SOURCE", help="Videos, folders, globs, manifests with uri.")]
Out = Annotated[str, typer.Option("-o", "--out", help="Output folder; what is there already is not computed again.")]
OutArgument = Annotated[str, typer.Argument(metavar="OUT", help="Output folder of label or extract.")]
Frames = Annotated[int | None, typer.Option(help="Frames per video, evenly spaced [default: the profile's, 16].")]
Model = Annotated[str | None, typer.Option("--model", help="Fusion checkpoint [default: the profile's own].")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Exit with 4 if another run holds OUT, instead of waiting.")]
WindowS = Annotated[float | None, typer.Option("--window", help="Label windows of so many seconds, not whole videos.")]
HopS = Annotated[float | None, typer.Option("--hop", help="Seconds from window to window [default: --window].")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on [default: RAY_ADDRESS, else this machine].")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the log of Ray and the models too.")]
Features = Annotated[list[str] | None, typer.Option(metavar="NAME=FINGERPRINT", help="Which of several tables.")]
Use = Annotated[str | None, typer.Option(help="Features to use, comma-separated [default: all].")]
Labels = Annotated[str, typer.Option(help="Columns video_id or uri, label, maybe split (.csv, .jsonl, .parquet).")]
Blacklist = Annotated[str | None, typer.Option(help="Text file of videos to leave out: one id or file name a line.")]
Profile = Annotated[str, typer.Option(help="Which extractors and models: lite, paper, or a .yaml file of your own.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: extractors.asr.beam_size=1.")
]
Hyper = Annotated[
    list[str] | None,
    typer.Option(
        "--hyper", metavar="KEY=VALUE",
        help="Change the preset: lr, batch, max_steps, evaluate_every, patience, clip_gradients, class_weights, "
        "label_smoothing, modality_dropout, weight_decay, amp.",
    ),
]  # fmt: skip
Width = Annotated[int, typer.Option("--d-model", help="Width of the classifier.")]
Heads = Annotated[int, typer.Option(help="Attention heads of the classifier.")]
Dropout = Annotated[float, typer.Option(help="Dropout of the classifier.")]
ModelsDir = Annotated[str | None, typer.Option(help="Folder of the models [default: $VEMOCLAP_MODELS or the cache].")]
Json = Annotated[bool, typer.Option("--json", help="End standard output with one JSON object.")]
