"""The public Switch Transformer checkpoints: their sizes, and their documentation."""

from __future__ import annotations

import pytest

from mtf_switch.config import gin_files
from mtf_switch.conversion import public_checkpoints

PUBLIC = {public.name: public for public in public_checkpoints.PUBLIC_CHECKPOINTS}


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("switch-base-8", 0.62),
        ("switch-base-16", 1.07),
        ("switch-base-32", 1.98),
        ("switch-base-64", 3.79),
        ("switch-base-128", 7.415),
        ("switch-base-256", 14.66),
        ("switch-large-128", 26.31),
        ("switch-xxl-128", 394.68),
        ("switch-c-2048", 1571.33),
    ],
)
def test_public_checkpoints_have_the_papers_parameters(name, billions):
    """Tables 7 and 9: 0.62B to 14.7B, 26B, 395B, 1571B."""
    assert PUBLIC[name].architecture.parameters / 1e9 == pytest.approx(billions, abs=0.005)


def test_every_public_checkpoint_is_in_the_documentation():
    text = (gin_files.REPOSITORY / "docs" / "checkpoints.md").read_text()
    for public in public_checkpoints.PUBLIC_CHECKPOINTS:
        assert f"google/{public.name}" in text
        assert f"{public.architecture.parameters:,}" in text
