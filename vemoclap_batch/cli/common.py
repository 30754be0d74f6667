"""What the commands share: their options, exit statuses, and how an option becomes what the package takes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Annotated, Any

import typer
import yaml

from vemoclap_batch.config import Config, ConfigError, load_config
from vemoclap_batch.errors import RunBroken, RunEnded
from vemoclap_batch.store.lock import Busy

#: Suffixes that are named one by one.
_KINDS_SHOWN = 10
DONE, BROKEN, USAGE, FAILED, HELD, INTERRUPTED, STOPPED = 0, 1, 2, 3, 4, 130, 143

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...", help="Videos, folders, globs, or manifests (.csv, .jsonl, .parquet with a column uri)."
    ),
]
Out = Annotated[str, typer.Option("-o", "--out", help="Output folder; what is there already is not computed again.")]
OutArgument = Annotated[str, typer.Argument(metavar="OUT", help="Output folder of label or extract.")]
Frames = Annotated[int | None, typer.Option(help="Frames per video, evenly spaced [default: the profile's, 16].")]
Model = Annotated[str | None, typer.Option("--model", help="Fusion checkpoint [default: the profile's own].")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Exit with 4 if another run holds OUT, instead of waiting.")]
WindowS = Annotated[float | None, typer.Option("--window", help="Label windows of so many seconds, not whole videos.")]
HopS = Annotated[float | None, typer.Option("--hop", help="Seconds from window to window [default: --window].")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on [default: RAY_ADDRESS, else this machine].")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the log of Ray and the models too.")]
Features = Annotated[
    list[str] | None,
    typer.Option(
        "--features", metavar="NAME=FINGERPRINT", help="Which features table to use, where there are several."
    ),
]
Labels = Annotated[
    str, typer.Option(help="File with video_id or uri, label and, if you like, split (.csv, .jsonl, .parquet).")
]
Profile = Annotated[str, typer.Option(help="Which extractors and models: lite, paper, or a .yaml file of your own.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. extractors.asr.beam_size=1."),
]
ModelsDir = Annotated[
    str | None, typer.Option("--models-dir", help="Folder of the models [default: $VEMOCLAP_MODELS, else the cache].")
]
Json = Annotated[bool, typer.Option("--json", help="End standard output with one JSON object.")]


def configuration(
    profile: str, frames: int | None, overrides: list[str] | None, models_dir: str | None = None
) -> Config:
    """The profile with what the command line changes of it."""
    chosen = list(overrides or [])
    if models_dir is not None:
        # As JSON, which YAML reads back whatever the path holds.
        chosen.append(f"models_dir={json.dumps(models_dir)}")
    if frames is not None:
        chosen.append(f"sampling.frames={frames}")
    return load_config(profile, chosen)


def default_checkpoint(config: Config) -> str:
    """Where the profile's own fusion checkpoint lies.

    Raises:
        ConfigError: the profile has none.
    """
    if config.checkpoint is None:
        raise ConfigError(
            [f"profile {config.profile!r} has no fusion checkpoint of its own: give one with --model, or use extract"]
        )
    return str(resources.files("vemoclap_batch") / config.checkpoint)


def window_of(window: float | None, hop: float | None) -> Any:
    """The windows asked for; None for whole videos."""
    from vemoclap_batch.media.timeline import Window

    mistakes = [
        f"{name} {value:g}: expected more than 0 seconds"
        for name, value in (("--window", window), ("--hop", hop))
        if value is not None and not value > 0
    ]
    if hop is not None and window is None:
        mistakes.append("--hop: needs --window")
    if mistakes:
        raise ConfigError(mistakes)
    return None if window is None else Window(window, window if hop is None else hop)


def over_windows(config: Config, window: Any) -> Config:
    """The configuration whose features serve these windows; as it is for whole videos (None)."""
    from vemoclap_batch.pipeline.windows import windowed

    return config if window is None else windowed(config, window)


def existing_store(out: str) -> Any:
    """The store in a folder that has to be there."""
    from vemoclap_batch.store.store import Store

    store = Store(out)
    if not store.exists():
        raise ConfigError([f"{out!r}: no such output folder"])
    return store


def chosen_fingerprints(features: list[str] | None) -> dict[str, str]:
    """The fingerprints that --features chooses, by extractor."""
    pairs = [item.partition("=") for given in features or [] for item in given.split(",")]
    wrong = [
        f"--features {name!r}: expected NAME=FINGERPRINT" for name, equals, value in pairs if not (equals and value)
    ]
    if wrong:
        raise ConfigError(wrong)
    return {name: value for name, _, value in pairs}


def preferred_fingerprints(store: Any, profile: str, overrides: list[str] | None, window: Any = None) -> dict[str, str]:
    """The profile's own fingerprints; none where there is nothing to choose, so that its packages are not needed."""
    config = over_windows(load_config(profile, overrides or []), window)
    if all(len(store.fingerprints(name)) < 2 for name in config.extractors):
        return {}
    from vemoclap_batch.extractors.registry import resolvable

    return {name: spec.fingerprint for name, spec in resolvable(config).items()}


def hyper_parameters(given: list[str] | None) -> dict[str, Any]:
    """Hyper-parameters that differ from the preset's, of KEY=VALUE each."""
    pairs = [item.partition("=") for item in given or []]
    mistakes = [f"--hyper {name!r}: expected KEY=VALUE" for name, equals, value in pairs if not (name and value)]
    values: dict[str, Any] = {}
    for name, _, text in pairs:
        try:
            # YAML reads 1e-3 as a text, which pydantic then takes for the number that it is.
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            mistakes.append(f"--hyper {name}: the value {text!r} is not YAML")
    if mistakes:
        raise ConfigError(mistakes)
    return values


def numbers(option: str, text: str) -> list[int]:
    """The numbers of an option, comma-separated."""
    try:
        return [int(item) for item in text.split(",")]
    except ValueError as error:
        raise ConfigError([f"{option} {text!r}: expected numbers such as 1,2,3"]) from error


@contextmanager
def exit_statuses() -> Iterator[None]:
    """Ends the process with the status that tells what went wrong, each mistake a line on standard error.

    SIGTERM ends it as an error does, so that what it holds, such as the lock of a folder, is given back.
    """
    from vemoclap_batch.pipeline.shutdown import Stopped, as_stopped, stoppable

    try:
        with stoppable(), as_stopped():
            yield
    except ConfigError as error:
        for mistake in error.mistakes:
            print(f"error: {_printable(mistake)}", file=sys.stderr)
        sys.exit(USAGE)
    except RunBroken as error:
        print(f"error: the run broke off: {_printable(str(error))}", file=sys.stderr)
        print(
            "what was finished is kept, and the same command goes on from there; --verbose shows more", file=sys.stderr
        )
        _say_last(error)
        sys.exit(BROKEN)
    except Busy as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(HELD)
    except Stopped as error:
        print("stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        _say_last(error)
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _printable(text: str) -> str:
    """Names and texts of unknown origin, which a terminal must not take for commands."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _say_last(error: RunEnded) -> None:
    # A job's log holds both streams.
    sys.stderr.flush()
    if error.last_words:
        print(error.last_words)


def left_out(ignored: Counter[str]) -> str:
    """How many files of the sources were left out, by suffix: ``left out 5 files: 3 .txt, 2 .srt``."""
    if not ignored:
        return "left out no file"
    kinds = [f"{count} {kind}" for kind, count in ignored.most_common(_KINDS_SHOWN)]
    rest = ignored.total() - sum(count for _, count in ignored.most_common(_KINDS_SHOWN))
    kinds += [f"{rest} of {len(ignored) - _KINDS_SHOWN} other kinds"] * bool(rest)
    return f"left out {ignored.total()} file{'s' * (ignored.total() > 1)}: {', '.join(kinds)}"
