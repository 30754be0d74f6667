"""Every setting of a run: a profile (YAML), overridden by ``--set key=value``, validated as a whole.

All mistakes are collected and reported at once, each with the setting, the value found and what was expected.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.policy import SCHEMES, Policy

_PACKAGE = Path(__file__).parent
#: The names of one setting of an extractor; profiles of version 0.1 have the second.
_DETECTIONS, _RESOURCES, _GPU = ("detections", "evidence"), ("resources", "pool"), ("gpu", "gpus")
_CHAINS = "decoding and extractors run in chains; pipeline.cpu_chains and pipeline.chains_per_gpu say how many"
#: Settings of version 0.1 that are gone, by the ends of their names, and what takes their place.
_GONE = {
    ("decode", "actors"): _CHAINS,
    ("resources", "actors"): _CHAINS,
    ("pool", "actors"): _CHAINS,
    ("resources", "threads"): "the plan gives each chain its threads: more with a smaller pipeline.cpu_chains",
    ("pool", "threads"): "the plan gives each chain its threads: more with a smaller pipeline.cpu_chains",
}
LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
#: A prediction whose set has more labels than that is shown as unsure.
MOST_LABELS = 2


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
    """Seconds of one core that an extractor takes, for the plan, which prefers what earlier runs in OUT measured."""

    per_video_s: float = Field(0.1, ge=0)
    per_audio_s: float = Field(0.0, ge=0, description="per second of audio")

    def of(self, audio_s: float) -> float:
        """Seconds that a video with so much audio takes."""
        return self.per_video_s + self.per_audio_s * audio_s


class GpuCost(Cost):
    """Seconds that an extractor takes which has a GPU to itself, in batches of 16 videos."""

    busy: float = Field(1.0, gt=0, le=1, description="share of these seconds in which the GPU computes")


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
    cost: Cost = Cost(per_video_s=0.09, per_audio_s=0.004)


class Sources(_Settings):
    """Which addresses a manifest may name."""

    @property
    def policy(self) -> Policy:
        """The settings as a policy."""
        return Policy(self.schemes, self.roots)

    schemes: tuple[str, ...] = Field(SCHEMES, description="a path without a scheme is file")
    roots: tuple[str, ...] = Field((), description="folders and prefixes to stay below; empty: anywhere")


def _as_switch(value: Any) -> Any:
    """Read the share of a GPU that version 0.1 had as whether an extractor runs on one."""
    return value > 0 if type(value) in {int, float} and value >= 0 else value


class ExtractorResources(_Settings):
    """What one extractor takes of a machine; changes where it runs and the plan, never the output of a device."""

    gpu: Annotated[bool, BeforeValidator(_as_switch)] = Field(
        False, validation_alias=AliasChoices(*_GPU), description="whether it runs on a GPU where there is one"
    )
    memory_gb: float = Field(0.5, gt=0, description="host memory of its models, in GiB")
    gpu_memory_gb: float = Field(1.0, gt=0, description="GPU memory of its models and of a batch, in GiB")
    cost: Cost = Cost()
    gpu_cost: GpuCost | None = Field(None, description="without it: a tenth of the seconds of a core")


class Pipeline(_Settings):
    """Chains, sizes of blocks, commits, retries and time-outs of a run."""

    cpu_chains: int | None = Field(None, ge=1, description="chains on CPUs in all; None: one a core, memory allowing")
    chains_per_gpu: int | None = Field(None, ge=1, description="None: as many as fit in its memory, at most 4")
    max_chains: int = Field(256, ge=1, description="chains of a stage, at most, asked of a cluster that can grow")
    gpu_device: Literal["cuda", "cpu"] = Field("cuda", description="torch device of a chain that has a GPU")
    gpu_memory_gb: float | None = Field(None, gt=0, description="memory of a GPU, in GiB; None: its node is asked")
    block_videos: int | None = Field(None, ge=1, description="videos of a block, at most; None: the plan decides")
    commit_s: float = Field(60, gt=0, description="seconds from one commit to the next, at most")
    commit_rows: int = Field(10_000, ge=1, description="rows that are committed at once, at most")
    compact_shards: int = Field(2000, ge=0, description="a run compacts tables with more shards in the end; 0: never")
    max_attempts: int = Field(3, ge=1, description="how often a cell is tried whose failure may pass")
    extract_timeout_s: float = Field(1800.0, gt=0, description="an extractor silent for this long is killed")
    max_actor_restarts: int = Field(1000, ge=0, description="restarts of one actor before the run gives up")
    wait_for_nodes_s: float = Field(1800.0, gt=0, description="how long a run without progress waits for new nodes")


class ExtractorEntry(BaseModel):
    """One extractor of a profile: its class, its own settings (checked by that class) and what it takes."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    class_path: str = Field(alias="class", description="package.module:Class")
    input: str | None = Field(None, description="whose text it reads, for a text extractor")
    text_column: str = Field("text", description="which of its texts; text_original is in the language spoken")
    detections: tuple[str, ...] = Field(
        (), validation_alias=AliasChoices(*_DETECTIONS), description="extractors whose finds it is given"
    )
    resources: ExtractorResources = Field(ExtractorResources(), validation_alias=AliasChoices(*_RESOURCES))

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
        "auto", description="whether extractors run on GPUs; auto: if this machine has an NVIDIA GPU"
    )

    @property
    def uses_gpu(self) -> bool:
        """Whether extractors that can run on GPUs do."""
        return self.accelerator == "gpu" or (self.accelerator == "auto" and has_gpu())


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
    config, mistakes = read_config(profile, settings, frames=frames, models_dir=models_dir)
    if config is None or mistakes:
        raise ConfigError(mistakes)
    return config


def read_config(
    profile: str = "lite", settings: Sequence[str] | Mapping[str, Any] | None = None, *, frames: int | None = None,
    models_dir: str | os.PathLike[str] | None = None,
) -> tuple[Config | None, list[str]]:  # fmt: skip
    """Read a profile as :func:`load_config` does, and go on where there are mistakes.

    Returns:
        The configuration, with defaults in the place of wrong values, so that more can be checked by it (None where
        that is no configuration either), and every mistake found.
    """
    try:
        raw = _read_profile(profile)
    except ConfigError as error:
        return None, error.mistakes
    changes, mistakes = _key_values("--set", settings or ())
    named = {"models_dir": os.fspath(models_dir) if models_dir else None, "sampling.frames": frames}
    changes |= {key: value for key, value in named.items() if value is not None}
    mistakes += [mistake for key, value in changes.items() if (mistake := _set(raw, key, value))]
    try:
        return Config.model_validate(raw), mistakes
    except ValidationError as error:
        mistakes += [_describe(item) for item in error.errors()]
        for item in error.errors():
            _remove(raw, item["loc"])
    try:
        return Config.model_validate(raw), mistakes
    except ValidationError:
        return None, mistakes


def _remove(raw: dict[str, Any], path: Sequence[int | str]) -> None:
    """Take a wrong setting out, or nothing where something is missing."""
    node: Any = raw
    for name in path[:-1]:
        node = node.get(name) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(path[-1], None)


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
    for depth, name in enumerate(path):
        part = next((known for known in _RESOURCES if known in node), name) if name in _RESOURCES else name
        if depth == 1 and path[0] == "extractors" and part not in node:
            close = difflib.get_close_matches(part, list(node)) or sorted(node)
            return f"--set {key}: no extractor {part!r} in this profile; expected one of {', '.join(close)}"
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            return f"--set {key}: {part!r} is a value, not a section"
        node = child
    # Of a setting with two names the other one goes.
    of_entry = {2: (_DETECTIONS, _RESOURCES), 3: (_GPU,)} if path[:1] == ["extractors"] else {}
    for names in of_entry.get(len(path), ()):
        if last in names:
            for name in names:
                node.pop(name, None)
    node[last] = value
    return None


def _describe(error: Mapping[str, Any]) -> str:
    setting = ".".join(str(part) for part in error["loc"]) or "profile"
    if error["type"] == "missing":
        return f"{setting}: missing"
    if error["type"] == "extra_forbidden":
        if instead := _GONE.get(tuple(error["loc"][-2:])):
            return f"{setting} = {error['input']!r}: this setting is gone; {instead}"
        return f"{setting} = {error['input']!r}: no such setting"
    expected = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{setting} = {error['input']!r}: {expected}"


def describe_errors(prefix: str, error: ValidationError) -> list[str]:
    """List the mistakes of a pydantic error: the setting under ``prefix``, its value and what was expected."""
    return [f"{prefix}.{_describe(item)}" for item in error.errors()]
