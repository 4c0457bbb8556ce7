"""score and predict agree with transformers on text, for a model and tokenizer exported to it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tiny_run import TinyRun

pytestmark = pytest.mark.slow

INPUTS = ("ba (<extra_id_0>) do", "do<extra_id_0>ki lu", "me <extra_id_0>  no")
TARGETS = ("<extra_id_0> tu<extra_id_1>", "<extra_id_0>so", "<extra_id_0> ve")

PROGRAM = """
import json, sys, torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1]).eval()
scores, ids = [], []
for line, target in json.loads(sys.argv[2]):
    inputs = torch.tensor([tokenizer.encode(line)])
    labels = torch.tensor([tokenizer.encode(target)])
    with torch.no_grad():
        logits = torch.log_softmax(model(input_ids=inputs, labels=labels).logits, -1)
        decoded = model.generate(inputs, max_new_tokens=6)[0][1:]
    scores.append(logits.gather(-1, labels[..., None]).sum().item())
    ids.append([int(i) for i in decoded])
print(json.dumps([scores, ids]))
"""


def test_text_gives_the_same_scores_and_decodes(tiny: TinyRun, tmp_path: Path) -> None:
    python = os.environ.get("HF_PYTHON")
    if not python:
        pytest.skip("HF_PYTHON names no interpreter with torch and transformers")
    trained = tiny.command(
        "train",
        "--gin_file=models/switch_base_released_tiny.gin",
        "--gin_file=runs/corpus.gin",
        f"--corpus={tiny.corpus}",
        f"--model_dir={tmp_path}/run",
        "--steps=5",
        "--gin_param=text_files.vocab_size = 300",
    )
    assert trained.code == 0, trained.err
    exported = tiny.command(
        "convert", "--from=mtf", "--to=hf", tmp_path / "run", tmp_path / "hf"
    )
    assert exported.code == 0, exported.err
    for name, lines in (("inputs", INPUTS), ("targets", TARGETS)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    files = (f"--model_dir={tmp_path}/run", f"--input_file={tmp_path}/inputs")
    scored = tiny.command(
        "score", *files, f"--target_file={tmp_path}/targets", f"--output_file={tmp_path}/scores"
    )
    assert scored.code == 0, scored.err
    decoded = tiny.command(
        "predict", *files, "--max_length=6", f"--output_file={tmp_path}/decoded"
    )
    assert decoded.code == 0, decoded.err
    pairs = json.dumps(list(zip(INPUTS, TARGETS)))
    done = subprocess.run(
        [python, "-c", PROGRAM, f"{tmp_path}/hf", pairs],
        capture_output=True,
        text=True,
        check=True,
    )
    scores, ids = json.loads(done.stdout)
    ours = [float(line) for line in (tmp_path / "scores").read_text().splitlines()]
    # The sum of a few float32 logarithms, written with 6 digits.
    assert ours == pytest.approx(scores, abs=2e-4)
    from tasks.text_vocabulary import TextVocabulary

    vocabulary = TextVocabulary(str(tmp_path / "hf" / "spiece.model"), 100)
    assert (tmp_path / "decoded").read_text().splitlines() == [
        vocabulary.decode(row) for row in ids
    ]
