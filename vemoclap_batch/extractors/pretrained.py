"""Networks of transformers from a local folder, as several extractors load them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


def load_strictly(kind: Any, folder: Path) -> Any:
    """A transformers network from a local folder, float32 and in evaluation mode, every weight from the file.

    Left to itself, transformers fills in random numbers for weights that are missing. safetensors go first;
    a ``pytorch_model.bin`` is read as weights only, which refuses every other pickled object.

    Args:
        kind: one of transformers' ``Auto…`` classes.
        folder: of the model.

    Raises:
        NotADirectoryError: not a folder.
        ValueError: weights are missing, of another shape, or no plain weights.
    """
    import torch
    from transformers.utils import logging

    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: expected the folder of a transformers model")
    logging.disable_progress_bar()
    # Its report of what is missing is told below, as an error.
    logging.set_verbosity_error()
    try:
        network, found = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except pickle.UnpicklingError as error:
        raise ValueError(f"{folder}: the weights file holds more than weights; it was not loaded") from error
    except RuntimeError as error:
        raise ValueError(f"{folder}: {error}") from error
    if missing := sorted(found["missing_keys"]):
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ValueError(f"{folder} lacks weights of {type(network).__name__}: {named}")
    return network.eval()
