"""Every setting of a run: a profile (YAML), overridden by ``--set key=value``, validated as a whole.

All mistakes are collected and reported at once, each with the setting, the value found and what was expected.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.policy import SCHEMES, Policy

_PACKAGE = Path(__file__).parent
#: The names of one setting of an extractor; profiles of version 0.1 have the second.
_DETECTIONS = ("detections", "evidence")
LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sampling(_Settings):
    """Which frames are taken of a video; part of the fingerprint of every visual extractor."""

    frames: int = Field(16, ge=1, le=1024, description="evenly spaced frames over the whole video")
    short_side: int = Field(360, ge=32, le=4320, description="pixels; larger frames are scaled down, none is enlarged")
    # Left out of fingerprints where it is not set, so that it changes none.
    every_s: float | None = Field(
        None, gt=0, exclude_if=lambda value: value is None, description="seconds between frames, if that makes more"
    )


class Cost(_Settings):
    """Seconds of one core (or GPU) that a stage takes, for the plan; a run prefers what earlier runs measured."""

    per_video_s: float = Field(0.1, ge=0)
    per_audio_s: float = Field(0.0, ge=0, description="per second of audio")


class Decode(_Settings):
    """Bounds on decoding one video in its worker process."""

    timeout_s: float = Field(120, gt=0, description="a worker silent for this long is killed")
    fetch_timeout_s: float = Field(3600, gt=0, description="seconds that fetching a remote file may take, all in all")
    max_fetch_gb: float = Field(64, gt=0, description="a larger remote file is refused, in GiB")
    memory_gb: float = Field(4, gt=0, description="address space of the worker above its start, in GiB")
    max_duration_s: float = Field(86_400, gt=0, description="audio after this is left out, with a warning")
    whole_s: float = Field(600, ge=0, description="a video with more seconds of audio is cut into chunks")
    whole_frames: int = Field(32, ge=0, description="a video of which more frames are taken is cut into chunks")
    part_s: float = Field(120, ge=1, description="seconds of audio in a chunk, at most; ASR is cut there")
    part_frames: int = Field(16, ge=1, description="frames in a chunk, at most")
    decoder: Literal["decord", "pyav"] = Field(
        "pyav", description="reads frames; PyAV alone detects damaged ones, and reads what decord cannot"
    )
    actors: int | None = Field(None, ge=1, description="how many decode at a time; without it the plan decides")
    cost: Cost = Cost(per_video_s=0.3, per_audio_s=0.004)


class Sources(_Settings):
    """Which addresses a manifest may name."""

    @property
    def policy(self) -> Policy:
        """The settings as a policy."""
        return Policy(self.schemes, self.roots)

    schemes: tuple[str, ...] = Field(SCHEMES, description="a path without a scheme is file")
    roots: tuple[str, ...] = Field((), description="folders and prefixes to stay below; empty: anywhere")


class Pool(_Settings):
    """How the actors of one extractor run; changes the speed, never the output."""

    actors: int | None = Field(None, ge=1, description="how many; without it the plan decides")
    threads: int = Field(1, ge=1, description="threads of each actor")
    gpus: float = Field(0, ge=0, description="GPUs of each actor, fractions allowed")
    memory_gb: float = Field(1.0, gt=0, description="host memory of each actor, in GiB")
    cost: Cost = Cost()


class Pipeline(_Settings):
    """Sizes of blocks, retries and time-outs of a run."""

    block_videos: int | None = Field(None, ge=1, description="videos of a block, at most; None: 4 for GPUs, else 1")
    compact_shards: int = Field(2000, ge=0, description="a run compacts tables with more shards in the end; 0: never")
    max_attempts: int = Field(3, ge=1, description="how often a cell is tried whose failure may pass")
    extract_timeout_s: float = Field(1800.0, gt=0, description="an extractor silent for this long is killed")
    max_actor_restarts: int = Field(1000, ge=0, description="restarts of one actor before the run gives up")
    wait_for_nodes_s: float = Field(1800.0, gt=0, description="how long a run without progress waits for new nodes")


class ExtractorEntry(BaseModel):
    """One extractor of a profile: its class, its own settings (checked by that class) and its pool."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    class_path: str = Field(alias="class", description="package.module:Class")
    input: str | None = Field(None, description="whose text it reads, for a text extractor")
    detections: tuple[str, ...] = Field(
        (), validation_alias=AliasChoices(*_DETECTIONS), description="extractors whose finds it is given"
    )
    pool: Pool = Pool()

    @property
    def reads(self) -> tuple[str, ...]:
        """The extractors whose results it needs."""
        return (*self.detections, *([self.input] if self.input else []))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that belong to the extractor's class."""
        return dict(self.model_extra or {})


class Config(_Settings):
    """The whole configuration of a run."""

    profile: str
    sources: Sources = Sources()
    sampling: Sampling = Sampling()
    decode: Decode = Decode()
    pipeline: Pipeline = Pipeline()
    extractors: dict[str, ExtractorEntry]
    checkpoint: str | None = Field(None, description="the profile's own fusion checkpoint, inside the package")
    models_dir: str | None = Field(None, description="folder of the weights; without it, $VEMOCLAP_MODELS or the cache")
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="whether pools get the GPUs that they ask for; auto: if this machine has an NVIDIA GPU"
    )

    @property
    def uses_gpu(self) -> bool:
        """Whether pools get the GPUs that they ask for."""
        return self.accelerator == "gpu" or (self.accelerator == "auto" and has_gpu())

    @property
    def block_videos(self) -> int:
        """Videos of a block, at most: batches of several make a GPU faster, not a CPU."""
        return self.pipeline.block_videos or (4 if self.uses_gpu else 1)


def load_config(
    profile: str = "lite", settings: Sequence[str] | Mapping[str, Any] | None = None, *, frames: int | None = None,
    models_dir: str | None = None,
) -> Config:  # fmt: skip
    """Read a profile, change some of its settings and validate the result.

    Args:
        profile: the name of a shipped profile, or the path of a YAML file.
        settings: changes, as ``section.key=value`` items or as a mapping of keys to values.
        frames: ``sampling.frames``, unless None.
        models_dir: ``models_dir``, unless None.

    Raises:
        ConfigError: with every mistake found.
    """
    raw = _read_profile(profile)
    changes, mistakes = _key_values("--set", settings or ())
    named = {"models_dir": models_dir, "sampling.frames": frames}
    changes |= {key: value for key, value in named.items() if value is not None}
    mistakes += [mistake for key, value in changes.items() if (mistake := _set(raw, key, value))]
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(mistakes + [_describe(item) for item in error.errors()]) from error
    if mistakes:
        raise ConfigError(mistakes)
    return config


def read_key_values(option: str, items: Sequence[str] | None) -> dict[str, Any]:
    """Read the ``key=value`` items of an option; the values are YAML.

    Raises:
        ConfigError: an item is not ``key=value``, or its value is not YAML.
    """
    values, mistakes = _key_values(option, items or ())
    if mistakes:
        raise ConfigError(mistakes)
    return values


def own_checkpoint(config: Config) -> str:
    """Locate the fusion checkpoint that belongs to the profile.

    Raises:
        ConfigError: the profile has none.
    """
    if config.checkpoint is None:
        message = "has no fusion checkpoint of its own: give one with --model, or use extract"
        raise ConfigError([f"profile {config.profile!r} {message}"])
    return str(_PACKAGE / config.checkpoint)


def has_gpu() -> bool:
    """Tell whether this machine has an NVIDIA GPU that is not hidden from this process; loads no library."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return False
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _read_profile(profile: str) -> dict[str, Any]:
    shipped = {path.stem: path for path in sorted((_PACKAGE / "profiles").glob("*.yaml"))}
    path = shipped.get(profile) or Path(profile)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        raise ConfigError([f"--profile {profile!r}: expected one of {', '.join(shipped)}, or a .yaml file"])
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"--profile {profile!r} is not YAML: {error}"]) from error
    if not isinstance(raw, dict):
        raise ConfigError([f"--profile {profile!r}: expected a mapping of settings"])
    return {"profile": profile, **raw}


#: Of the options that take such items.
_EXAMPLES = {"--set": "sampling.frames=8", "--hyper": "max_steps=1000"}


def _key_values(option: str, items: Sequence[str] | Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values by key, and a message for each item that is wrong."""
    if isinstance(items, Mapping):
        return dict(items), []
    values, mistakes = {}, []
    for item in items:
        key, equals, text = item.partition("=")
        if not (equals and key):
            mistakes.append(f"{option} {item!r}: expected key=value, such as {_EXAMPLES[option]}")
            continue
        try:
            # YAML reads 1e-3 as a string, which pydantic converts to a number.
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            mistakes.append(f"{option} {key}: the value {text!r} is not YAML")
    return values, mistakes


def _set(raw: dict[str, Any], key: str, value: Any) -> str | None:
    """Change one setting in place; returns a message if there is no place for it."""
    *path, last = key.split(".")
    node = raw
    for depth, part in enumerate(path):
        if depth == 1 and path[0] == "extractors" and part not in node:
            close = difflib.get_close_matches(part, list(node)) or sorted(node)
            return f"--set {key}: no extractor {part!r} in this profile; expected one of {', '.join(close)}"
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            return f"--set {key}: {part!r} is a value, not a section"
        node = child
    if len(path) == 2 and path[0] == "extractors" and last in _DETECTIONS:
        for name in _DETECTIONS:
            node.pop(name, None)
    node[last] = value
    return None


def _describe(error: Mapping[str, Any]) -> str:
    setting = ".".join(str(part) for part in error["loc"]) or "profile"
    if error["type"] == "missing":
        return f"{setting}: missing"
    if error["type"] == "extra_forbidden":
        return f"{setting} = {error['input']!r}: no such setting"
    expected = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{setting} = {error['input']!r}: {expected}"


def describe_errors(prefix: str, error: ValidationError) -> list[str]:
    """List the mistakes of a pydantic error: the setting under ``prefix``, its value and what was expected."""
    return [f"{prefix}.{_describe(item)}" for item in error.errors()]
