"""The GPUs of a machine, as nvidia-smi lists them."""

from __future__ import annotations

import logging
import re
import subprocess

log = logging.getLogger(__name__)

#: How long nvidia-smi may take, with the start of the process that runs it.
SMI_S = 60.0


def gpus_here() -> list[tuple[str | None, float]]:
    """Return the type (as Ray names it) and memory (GiB) of each GPU of this node; nothing where nvidia-smi fails."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=SMI_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("nvidia-smi does not say what GPUs there are: %s", error)
        return []
    return read_gpus(done.stdout)


def read_gpus(table: str) -> list[tuple[str | None, float]]:
    """Read the lines ``name, MiB`` of nvidia-smi; those without a number (a GPU that is split up, say) are left out."""
    found = []
    for line in table.splitlines():
        name, _, mib = line.rpartition(",")
        if (mib := mib.strip()).isdecimal() and int(mib):
            # "Tesla V100-SXM2-16GB" is V100 to Ray, "NVIDIA GeForce RTX 5090" is GeForce-RTX-5090.
            model = re.match(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)", name.strip())
            product = model[1] if model else name.strip().removeprefix("NVIDIA ")
            found.append((product.replace(" ", "-") or None, int(mib) / 1024))
    return found
