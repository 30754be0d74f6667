"""How right texts are: words heard and invented, characters read, languages told apart.

python jobs/bench/text.py invented --folder DIR --json

Sounds, voices and fonts come from packages, which a part fetches into DIR and finds there the next time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vemoclap_batch.cli.common import program, run_program


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part."""
    from bench import text_invented, text_languages, text_reading, text_scripts, text_speech

    app = program(__doc__, no_args_is_help=True)
    #: Part → what runs it; its docstring says what it measures.
    parts: dict[str, Callable[..., Any]] = {
        "invented": text_invented.command,
        "languages": text_languages.command,
        "reading": text_reading.command,
        "speech": text_speech.command,
        "scripts": text_scripts.command,
    }
    for name, command in parts.items():
        app.command(name)(command)
    run_program(app, arguments)


if __name__ == "__main__":
    # By its path: the package that it is part of lies one folder up.
    sys.path[0] = str(Path(__file__).parents[1])
    main()
