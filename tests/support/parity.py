"""Compares the outputs of a converted model with those of transformers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from converted_model import Outputs

from mtf_switch.conversion.architecture import STACKS

EOS_ID = 1


def assert_outputs_agree(
    ours: Outputs, theirs: Mapping[str, np.ndarray], tolerance: float
) -> None:
    """Compares outputs at tokens, choices of experts and log-likelihoods.

    Args:
      ours: The outputs of the converted model.
      theirs: The arrays that transformers_worker writes.
      tolerance: Largest absolute error of an output or a logit.
    """
    tokens = {"encoder": theirs["inputs"] != 0, "decoder": theirs["targets"] != 0}
    np.testing.assert_allclose(
        ours.encoder[tokens["encoder"]], theirs["encoder"][tokens["encoder"]], atol=tolerance
    )
    np.testing.assert_allclose(
        ours.logits[tokens["decoder"]], theirs["logits"][tokens["decoder"]], atol=tolerance
    )
    # A log-likelihood is a sum over up to 6 tokens.
    np.testing.assert_allclose(
        ours.log_likelihoods, theirs["log_likelihoods"], atol=6 * tolerance
    )
    assert set(ours.choices) == {stack for stack in STACKS if f"{stack}_choice" in theirs}
    for stack, choices in ours.choices.items():
        np.testing.assert_array_equal(
            choices[:, tokens[stack]], theirs[f"{stack}_choice"][:, tokens[stack]]
        )


def assert_decoded_agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Compares decoded ids up to the end of each sequence.

    transformers stops when all sequences have ended, so `theirs` may be shorter.
    """
    for row, other in zip(ours, theirs):
        assert _until_end(row[: len(other)]) == _until_end(other)


def _until_end(row: np.ndarray) -> list[int]:
    """Returns the ids up to the end of the sequence. Ids after it are arbitrary."""
    ids = row.tolist()
    return ids[: ids.index(EOS_ID) + 1] if EOS_ID in ids else ids
