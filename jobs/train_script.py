"""Train the classifier of scripts that the package carries: python jobs/train_script.py --fonts DIR.

Needs the packages wordfreq and onnx, and a folder with fonts, such as Debian's fonts-noto-core unpacked into it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

import typer

import vemoclap_batch
from vemoclap_batch.cli.common import print_json, program, run_program

OUT = Path(vemoclap_batch.__file__).parent / "weights" / "script.onnx"
#: Words of each language that are drawn.
COMMONEST = 8_000
#: Parts of the paths of fonts that are measured with, not trained with.
HELD_OUT = ("dejavu", "freefont", "ipafont", "unfonts", "kacst", "lohit", "Waree", "open-sans")
app = program(__doc__)


@app.command(help=__doc__)
def train_script(
    fonts: Annotated[Path, typer.Option(help="Folder with .ttf, .otf and .ttc files, at any depth.")],
    out: Annotated[Path, typer.Option(help="Where the network goes, and the counts of letters beside it.")] = OUT,
    lines: Annotated[int, typer.Option(help="How many lines are drawn.")] = 70_000,
    epochs: Annotated[int, typer.Option(help="Passes over them.")] = 8,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Draw lines, train the network, write it and print its scores on fonts that it was not trained on."""
    import torch

    from lite.look_alike_counts import count
    from lite.script_training import draw_lines, export, measure, train_script_net
    from vemoclap_batch.extractors.paddle_models import bundled_characters

    torch.set_num_threads(threads)
    every = sorted(path for path in fonts.rglob("*") if path.suffix in {".ttf", ".otf", ".ttc"})
    apart = [path for path in every if any(part in str(path) for part in HELD_OUT)]
    characters = set(bundled_characters())
    count(words, characters, out.with_name("look_alikes.npz"))
    train = draw_lines([path for path in every if path not in apart], words, characters, lines, seed=1)
    validation = draw_lines(apart, words, characters, max(lines // 14, 200), seed=2)
    typer.echo(f"{len(every) - len(apart)} fonts to train with, {len(apart)} apart", err=True)
    net = train_script_net(train, validation, epochs=epochs, progress=lambda line: typer.echo(line, err=True))
    export(net, out)
    print_json(measure(net, validation))


@cache
def words(language: str) -> list[str]:
    """The commonest words of a language."""
    from wordfreq import top_n_list

    return [word for word in top_n_list(language, COMMONEST) if any(map(str.isalpha, word)) and len(word) < 16]


if __name__ == "__main__":
    run_program(app)
