"""Converts checkpoints in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtf_switch.conversion.convert import (
    ConversionRequest,
    ConversionResult,
    convert_checkpoint,
)


def convert(
    source_format: str, target_format: str, source: Path, target: Path, **options: Any
) -> ConversionResult:
    """Converts between two paths; `options` are further fields of a ConversionRequest."""
    request = ConversionRequest(
        source_format, target_format, str(source), str(target), **options
    )
    return convert_checkpoint(request)
