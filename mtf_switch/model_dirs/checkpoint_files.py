"""The files of a checkpoint, read without TensorFlow if they are on this machine."""

from __future__ import annotations

import hashlib

from mtf_switch import whole_file


def fingerprint(checkpoint: str) -> str:
    """Returns the SHA-256 of a checkpoint's index, which has a checksum of each variable.

    Args:
      checkpoint: The path of the checkpoint.

    Raises:
      OSError: If there is no such checkpoint.
    """
    return hashlib.sha256(whole_file.read_bytes(f"{checkpoint}.index")).hexdigest()
