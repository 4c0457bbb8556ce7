"""`run_switch.py predict` and `score`, against the model called on its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import line_files
import numpy as np
import pytest
from line_files import write
from tiny_run import (
    BATCH,
    EOS_ID,
    INPUTS,
    TARGETS,
    TinyRun,
    faster,
    filled_up,
    log_likelihoods,
    run_model,
)

from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.runs import estimator, prediction
from mtf_switch.runs.run import Run

# No encoder layer drops a token: an expert has a slot for each of a group's.
NO_DROP = "--gin_param=ExpertCapacity.capacity_factor_eval = 4.0"
# Two batches, the second a partial one.
LINES = BATCH + 3


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Outputs, and the results of the model when it is called on them.

    Attributes:
      ids: [B, L] int32.
      logits: [B, L, V] float32.
    """

    ids: np.ndarray
    logits: np.ndarray

    @property
    def log_likelihood(self) -> np.ndarray:
        """The log-likelihood of each output, in nats: [B]."""
        return log_likelihoods(self.logits, self.ids).sum(axis=-1)


@pytest.fixture(scope="module")
def talkative(tiny: TinyRun, tmp_path_factory) -> Path:
    """A model whose greedy outputs are long, and differ with their inputs.

    With tied embeddings an untrained decoder repeats its start token, the padding.
    """
    model_dir = tmp_path_factory.mktemp("talkative") / "run"
    outcome = tiny.train(
        model_dir,
        "--steps=1",
        params={
            "decoder/Unitransformer.shared_embedding_and_softmax_weights": "False",
            "init_scale.s": "1.0",
        },
    )
    assert outcome.code == 0, outcome.err
    return model_dir


@pytest.fixture(scope="module")
def lines(tiny: TinyRun) -> list[str]:
    """Sentences of the corpus, of different lengths in tokens."""
    sentences = [line for line in tiny.corpus.read_text().splitlines() if line]
    return [" ".join(s.split()[: 2 + i // 2]) for i, s in enumerate(sentences[:LINES])]


def predict(
    tiny: TinyRun, model_dir: Path, lines: list[str], tmp_path: Path, *arguments
) -> list[str]:
    """The lines of the output file."""
    outcome, outputs = line_files.predict(tiny, model_dir, lines, tmp_path, *arguments)
    assert outcome.code == 0, outcome.err
    # Whether outputs end depends on the weights.
    others = [m for m in outcome.err.splitlines() if "reached the maximum length" not in m]
    assert others == []
    return outputs


@pytest.fixture(scope="module")
def greedy(tiny: TinyRun, talkative: Path, lines: list[str], tmp_path_factory) -> list[str]:
    """Greedy outputs for LINES inputs."""
    return predict(tiny, talkative, lines, tmp_path_factory.mktemp("greedy"))


def test_every_input_has_its_line_also_in_a_partial_batch(greedy: list[str]) -> None:
    assert len(greedy) == LINES
    assert len(set(greedy)) > LINES // 2, "the outputs are to differ with the inputs"


def test_an_input_decodes_in_another_order_as_it_does_in_this_one(
    tiny: TinyRun, talkative: Path, lines: list[str], greedy: list[str], tmp_path: Path
) -> None:
    # Two full batches, and a third with one input and rows of padding.
    order = [*range(LINES)[::-1], *range(2 * BATCH - LINES), 4]
    outputs = predict(tiny, talkative, [lines[i] for i in order], tmp_path)
    assert outputs == [greedy[i] for i in order]


def test_the_encoder_drops_tokens_only_where_it_is_asked_to(
    tiny: TinyRun, talkative: Path, lines: list[str], greedy: list[str], tmp_path: Path
) -> None:
    outcome, outputs = line_files.predict(
        tiny, talkative, lines, tmp_path, "--capacity_factor=0.1"
    )
    assert outcome.code == 0
    assert "The experts had no room for" in outcome.err
    assert outputs != greedy


def encoded(texts: list[str], vocabulary: Any, length: int) -> np.ndarray:
    """[texts, length] int32: ids, cut to make room for the end of sequence, and padding."""
    rows = np.zeros([len(texts), length], np.int32)
    for row, text in zip(rows, texts):
        ids = [*vocabulary.encode(text)[: length - 1], EOS_ID]
        row[: len(ids)] = ids
    return rows


def decode(tiny: TinyRun, model_dir: Path, inputs: list[str], *params: str) -> Decoded:
    """Decodes one batch, and calls the model on inputs and outputs at once."""
    settings, vocabulary = tiny.load(model_dir, [NO_DROP.split("=", 1)[1], *params])
    inputs = encoded(inputs, vocabulary[0], INPUTS)
    checkpoint = saved_checkpoints.find_latest(str(model_dir))
    with faster():
        results = estimator.build(Run(settings, vocabulary, str(model_dir))).predict(
            prediction.make_input_fn({"inputs": inputs}, BATCH), checkpoint_path=checkpoint
        )
        ids = np.stack([result["outputs"] for result in results])
    batch = {"inputs": inputs, "targets": ids}
    (ran,) = run_model(checkpoint, settings, vocabulary, [batch])
    return Decoded(ids, ran.logits)


def test_greedy_decoding_takes_the_most_likely_token_of_the_whole_sequence(
    tiny: TinyRun, talkative: Path, lines: list[str]
) -> None:
    """Token by token, decoding agrees with the model called on inputs and output at once."""
    decoded = decode(tiny, talkative, lines[:BATCH])
    ends = decoded.ids == EOS_ID
    ended = np.cumsum(ends, axis=1) - ends > 0
    assert np.all(decoded.ids[ended] == 0)
    # In float32 no two of these likelihoods are equal.
    most_likely = decoded.logits.argmax(axis=-1)
    np.testing.assert_array_equal(most_likely[~ended], decoded.ids[~ended])
    assert np.unique(decoded.ids).size > 5, "the outputs are to be worth the look"


def test_beam_search_finds_likelier_outputs_than_greedy_decoding(
    tiny: TinyRun, talkative: Path, lines: list[str]
) -> None:
    length = "Bitransformer.decode.max_decode_length = 4"
    greedy = decode(tiny, talkative, lines[:BATCH], length)
    beams = decode(tiny, talkative, lines[:BATCH], length, "Bitransformer.decode.beam_size = 8")
    gain = beams.log_likelihood - greedy.log_likelihood
    # Where both agree, the sums of the batches may be added in another order.
    assert np.all(gain > -1e-4)
    assert np.any(gain > 0.01)


def test_beam_search_gives_one_line_per_input(
    tiny: TinyRun, talkative: Path, lines: list[str], greedy: list[str], tmp_path: Path
) -> None:
    beams = predict(tiny, talkative, lines, tmp_path, "--beams=2")
    assert len(beams) == LINES
    assert beams != greedy
    # Short inputs without the long ones: the maximum length does not depend on the long ones.
    # Without the flag, gin decides. And decoding drops no token, whatever its capacity.
    in_gin = [
        "--gin_param=Bitransformer.decode.beam_size = 2",
        NO_DROP,
        "--gin_param=decoder/ExpertCapacity.capacity_factor_eval = 0.01",
        "--gin_param=decoder/ExpertCapacity.min_expert_capacity = 1",
    ]
    assert predict(tiny, talkative, lines[:2], tmp_path, *in_gin) == beams[:2]


def test_sampling_differs_from_greedy_and_from_line_to_line_but_not_from_call_to_call(
    tiny: TinyRun, talkative: Path, lines: list[str], greedy: list[str], tmp_path: Path
) -> None:
    same = [lines[0]] * LINES
    sampled = predict(tiny, talkative, same, tmp_path, "--temperature=1.0")
    # Another batch has other noise.
    assert len(set(sampled)) == LINES
    assert greedy[0] not in sampled
    assert predict(tiny, talkative, same, tmp_path, "--temperature=1.0") == sampled


def test_sampling_from_the_one_most_likely_token_is_greedy(
    tiny: TinyRun, talkative: Path, lines: list[str], greedy: list[str], tmp_path: Path
) -> None:
    arguments = ("--temperature=1.0", "--top_k=1")
    assert predict(tiny, talkative, lines, tmp_path, *arguments) == greedy


def test_an_output_has_at_most_max_length_tokens(
    tiny: TinyRun, talkative: Path, lines: list[str], greedy: list[str], tmp_path: Path
) -> None:
    outcome, short = line_files.predict(tiny, talkative, lines, tmp_path, "--max_length=3")
    # Who asks for short outputs is not told that they are short.
    assert (outcome.code, outcome.err) == (0, "")
    for begun, whole in zip(short, greedy):
        assert len(begun) < len(whole)
        assert whole.startswith(begun.rstrip("\u2047 "))


def test_scores_are_the_log_likelihoods_of_the_model_in_nats(
    tiny: TinyRun, trained: Path, lines: list[str], tmp_path: Path
) -> None:
    """This includes an empty target, and one that is cut to the length of the targets."""
    targets = [*lines[::-1][:-2], "", "bado " * 40]
    outcome, scores = line_files.score(
        tiny, trained, list(zip(lines, targets)), tmp_path, "--truncate"
    )
    assert outcome.code == 0
    assert f"lines were cut to the {TARGETS} tokens that the model has room for" in outcome.err
    assert len(scores) == LINES

    settings, vocabulary = tiny.load(trained, [NO_DROP.split("=", 1)[1]])

    features = {
        "inputs": encoded(lines, vocabulary[0], INPUTS),
        "targets": encoded(targets, vocabulary[1], TARGETS),
    }
    batches = [
        {name: filled_up(rows[start : start + BATCH]) for name, rows in features.items()}
        for start in (0, BATCH)
    ]
    expected = [
        log_likelihoods(ran.logits, batch["targets"]).sum(axis=-1)
        for batch, ran in zip(
            batches,
            run_model(
                saved_checkpoints.find_latest(str(trained)), settings, vocabulary, batches
            ),
        )
    ]
    # Sums of up to 16 float32 terms near 6; printed with 6 decimals.
    np.testing.assert_allclose(scores, np.concatenate(expected)[:LINES], rtol=1e-5)


def test_files_of_different_lengths_are_refused(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    inputs = write(tmp_path / "inputs.txt", ["a", "b", "c"])
    targets = write(tmp_path / "targets.txt", ["a", "b"])
    outcome = tiny.command(
        "score",
        f"--model_dir={trained}",
        f"--input_file={inputs}",
        f"--target_file={targets}",
        f"--output_file={tmp_path / 'scores.txt'}",
    )
    assert outcome.code == 1
    assert (
        f"{inputs} has 3 lines and {targets} 2, but each input needs one target" in outcome.err
    )
    assert not (tmp_path / "scores.txt").exists()


@pytest.mark.parametrize("output", ["missing/outputs.txt", "folder"])
def test_an_output_that_cannot_be_written_is_refused_before_decoding(
    tiny: TinyRun, trained: Path, tmp_path: Path, output: str
) -> None:
    (tmp_path / "folder").mkdir()
    outcome = tiny.command(
        "predict",
        f"--model_dir={trained}",
        f"--input_file={write(tmp_path / 'inputs.txt', ['a'])}",
        f"--output_file={tmp_path / output}",
    )
    assert outcome.code == 1
    assert f"{tmp_path / output} cannot be written" in outcome.err
    assert ("Create it first" in outcome.err) == output.startswith("missing")
