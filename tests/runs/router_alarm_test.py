"""The alarm about routers: each sentence once, and none without a reason."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from mtf_switch.runs import progress
from mtf_switch.runs.progress_hook import ProgressHook
from mtf_switch.runs.router_alarm import WINDOW, RouterAlarm

LAYER = "encoder/block_000/layer_001"


def make_sums(load, entropy=1.0, tokens=200.0):
    """The sums of one step: tokens, dropped, entropy, gate, two losses, load, served."""
    load = np.array(load) / np.sum(load) * tokens
    return {
        LAYER: np.array([tokens, 0, entropy * tokens, 0, 0, 0, *load, *np.zeros(len(load))])
    }


def listen(steps, **sums):
    alarm = RouterAlarm()
    return [
        text for step in range(1, steps + 1) for text in alarm.watch(step, make_sums(**sums))
    ]


def test_a_healthy_router_raises_no_alarm():
    assert listen(10 * WINDOW, load=[1, 2, 3, 0.02]) == []
    assert RouterAlarm().watch(1, {}) == []


def test_dead_experts_are_named_once():
    (text,) = listen(3 * WINDOW, load=[1, 0, 1, 0])
    assert text.startswith(f"Step {WINDOW}, {LAYER}: 2 of 4 experts (1, 3) are dead: they were")
    # 0.9% of the even share is 0.225% of the tokens of four experts.
    assert len(listen(WINDOW, load=[30, 30, 39.775, 0.225])) == 1
    assert listen(WINDOW, load=[30, 30, 39.725, 0.275]) == []
    many = listen(WINDOW, load=[1] * 30 + [0] * 10)
    assert "10 of 40 experts (30, 31, 32, 33, 34, 35, 36, 37, ...)" in many[0]


def test_an_expert_with_tokens_in_the_window_is_not_dead():
    alarm = RouterAlarm()
    for step in range(1, 5 * WINDOW + 1):
        alive = step % WINDOW in (50, 51)
        assert alarm.watch(step, make_sums([1, 1, 1, 1 if alive else 0])) == []


def test_a_collapsed_router_is_said_instead_of_its_dead_experts():
    # 0.95 and 0.05: the entropy is 0.1985, and its exponential 1.2.
    (text,) = listen(3 * WINDOW, load=[0, 0, 19, 1])
    assert "the router has collapsed: the tokens of the last 100 steps went to 1.2 of 4" in text
    assert "95% of them to expert 2." in text
    # 0.85 and 0.15: the entropy is 0.4227, and its exponential 1.53.
    (text,) = listen(WINDOW, load=[0, 0, 17, 3])
    assert "2 of 4 experts" in text
    # 3 and 4 of 16 experts.
    assert "went to 3.0 of 16 experts" in listen(WINDOW, load=[1] * 3 + [0] * 13)[0]
    assert "12 of 16 experts" in listen(WINDOW, load=[1.01, 1, 1, 1, 0.0001, *[0] * 11])[0]


def test_large_logits():
    (text,) = listen(2 * WINDOW, load=[1, 1], entropy=5e-4)
    assert "certain of every token" in text
    assert "5.0e-04 of at most 0.69 nats" in text
    assert listen(2 * WINDOW, load=[1, 1], entropy=1e-3) == []


@pytest.mark.parametrize(("load", "tokens"), [([1, 0], 0.3), ([1], 200)])
def test_too_few_tokens_or_one_expert_say_nothing(load, tokens):
    assert listen(2 * WINDOW, load=load, tokens=tokens) == []


def test_a_later_fault_is_said_later():
    alarm, texts = RouterAlarm(), []
    for step in range(1, 2 * WINDOW + 1):
        texts += alarm.watch(step, make_sums([1, 1, 1] if step <= WINDOW else [1, 1, 0]))
    assert [text.split(",")[0] for text in texts] == [f"Step {2 * WINDOW}"]


def test_the_progress_bar_of_training_prints_the_alarm(capsys):
    run = mock.Mock(model_dir="run")
    run.settings.tokens_per_batch, run.settings.train_steps = 100, 300
    validation = mock.Mock(is_due=lambda step: False)
    hook = ProgressHook(mock.Mock(), run, validation)
    hook._began = 0.0
    parts = {"TrainLog": mock.Mock(), "SpeedSummaries": mock.Mock()}
    with mock.patch.multiple(progress, **parts):
        hook._progress = progress.Progress(run, 0)
    hook._progress._bar = mock.MagicMock(n=0)
    values = {"loss": 1.0, "sums": make_sums([1, 0, 1]), "targets": None}
    for _ in range(2 * WINDOW):
        hook.after_run(None, mock.Mock(results=values))
    assert capsys.readouterr().err.count("1 of 3 experts (1) are dead") == 1
