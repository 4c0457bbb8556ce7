"""The plan of a student's initial weights."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.distillation import initial_values, roles, weights_of_teacher
from mtf_switch.errors import UserError

M, F, E = 4, 6, 3


def make_layer(stack: str, block: int, layer: int, name: str, f: int = F) -> dict:
    scope = f"{stack}/block_{block:03d}/layer_{layer:03d}"
    parts = {
        "SelfAttention": {"q": [M, M]},
        "DenseReluDense": {"wi/kernel": [M, f], "wo/kernel": [f, M]},
        "SwitchFFN": {
            "switch_gating/kernel": [M, E],
            "wi/kernel": [E, M, F],
            "wo/kernel": [E, F, M],
        },
    }[name]
    shapes = {f"{scope}/{name}/{part}": shape for part, shape in parts.items()}
    return {f"{scope}/rms_norm/scale": [M], **shapes}


def make_model(blocks: list[list[str]], f: int = F) -> dict:
    shapes = {"shared/embedding": [9, M]}
    for b, layers in enumerate(blocks):
        for i, name in enumerate(layers):
            shapes |= make_layer("encoder", b, i, name, f)
    return {**shapes, "encoder/rms_norm/scale": [M]}


# A block of the teacher is two of the student's.
TEACHER = make_model([["SelfAttention", "DenseReluDense", "SelfAttention", "SwitchFFN"]])
STUDENT = make_model([["SelfAttention", "DenseReluDense"]] * 2)
SECOND_FFN = "encoder/block_001/layer_001"
EXPERTS = "encoder/block_000/layer_003/SwitchFFN"
# The student's variables, and those of the teacher, by hand.
ALIGNED = {
    "shared/embedding": "shared/embedding",
    "encoder/block_000/layer_000/rms_norm/scale": "encoder/block_000/layer_000/rms_norm/scale",
    "encoder/block_000/layer_000/SelfAttention/q": (
        "encoder/block_000/layer_000/SelfAttention/q"
    ),
    "encoder/block_000/layer_001/rms_norm/scale": "encoder/block_000/layer_001/rms_norm/scale",
    "encoder/block_000/layer_001/DenseReluDense/wi/kernel": (
        "encoder/block_000/layer_001/DenseReluDense/wi/kernel"
    ),
    "encoder/block_000/layer_001/DenseReluDense/wo/kernel": (
        "encoder/block_000/layer_001/DenseReluDense/wo/kernel"
    ),
    "encoder/block_001/layer_000/rms_norm/scale": "encoder/block_000/layer_002/rms_norm/scale",
    "encoder/block_001/layer_000/SelfAttention/q": (
        "encoder/block_000/layer_002/SelfAttention/q"
    ),
    f"{SECOND_FFN}/rms_norm/scale": "encoder/block_000/layer_003/rms_norm/scale",
    "encoder/rms_norm/scale": "encoder/rms_norm/scale",
}


def test_non_expert_copies_by_role_and_leaves_layers_of_experts_new() -> None:
    origins = initial_values.plan(STUDENT, TEACHER, "non_expert")
    assert {o.variable: o.source for o in origins if o.how == "copied"} == ALIGNED
    assert {o.variable for o in origins if o.how == "new"} == {
        f"{SECOND_FFN}/DenseReluDense/{kernel}/kernel" for kernel in ("wi", "wo")
    }


def test_none_takes_nothing() -> None:
    origins = initial_values.plan(STUDENT, TEACHER, "none")
    assert {(o.source, o.how) for o in origins} == {(None, "new")}


@pytest.mark.parametrize("init", ["mean_expert", "sum_expert", "top_expert"])
def test_the_others_also_take_the_experts(init) -> None:
    origins = {o.variable: o for o in initial_values.plan(STUDENT, TEACHER, init)}
    for kernel in ("wi", "wo"):
        origin = origins.pop(f"{SECOND_FFN}/DenseReluDense/{kernel}/kernel")
        assert origin.source == f"{EXPERTS}/{kernel}/kernel"
        assert origin.how == initial_values.COMBINED[init]
        if init == "top_expert":
            assert origin.kernels == (f"{EXPERTS}/wi/kernel", f"{EXPERTS}/wo/kernel")
    assert {name: o.source for name, o in origins.items()} == ALIGNED


def test_a_sparse_student_copies_what_is_not_of_experts() -> None:
    origins = initial_values.plan(TEACHER, TEACHER, "non_expert")
    for origin in origins:
        is_new = roles.is_of_experts(origin.variable)
        assert origin.source == (None if is_new else origin.variable)


@pytest.mark.parametrize(
    ("student", "teacher", "init", "message"),
    [
        (
            make_model([["SelfAttention", "DenseReluDense"]]),
            *(TEACHER, "non_expert"),
            "1 SelfAttention layers in its encoder, and the teacher 2",
        ),
        (
            make_model([["SelfAttention", "DenseReluDense"]] * 2, f=8),
            *(TEACHER, "non_expert"),
            "wi/kernel is [4, 8] in the student, and [4, 6] in the teacher",
        ),
        (
            make_model([["SelfAttention", "DenseReluDense"]] * 2, f=8),
            *(TEACHER, "mean_expert"),
            "layer_001/DenseReluDense/wi/kernel is [4, 8] in the student",
        ),
        (
            {**STUDENT, "encoder/logits/kernel": [M, 9]},
            *(TEACHER, "non_expert"),
            "encoder/logits/kernel is [4, 9] in the student, and missing in the teacher",
        ),
        (TEACHER, TEACHER, "sum_expert", "the student has experts itself"),
        (STUDENT, STUDENT, "mean_expert", "the teacher is dense: use --init=non_expert"),
    ],
)
def test_weights_that_the_student_cannot_take_are_refused(
    student, teacher, init, message
) -> None:
    with pytest.raises(UserError) as caught:
        initial_values.plan(student, teacher, init)
    assert message in str(caught.value)


def test_the_table_has_a_line_for_each_kind_of_variable() -> None:
    origins = initial_values.plan(STUDENT, TEACHER, "mean_expert")
    lines = initial_values.format_table(origins, "mean_expert", "runs/base/model.ckpt-9")
    head, columns, *rows = lines.splitlines()
    assert head.startswith("Initial weights: --init=mean_expert, 12 of 12 variables from runs/")
    assert columns.split()[:3] == ["variable", "of", "the"]
    cells = [" ".join(row.split()) for row in rows]
    norms = "encoder/block_*/layer_*/rms_norm/scale"
    assert f"{norms} 4 copied {norms}" in cells
    assert (
        "encoder/block_*/layer_*/DenseReluDense/wi/kernel 1 mean of the experts "
        "encoder/block_*/layer_*/SwitchFFN/wi/kernel"
    ) in cells
    assert len(rows) == 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, np.ndarray]]:
    """A checkpoint of a teacher with random weights, and the weights."""
    chooser = np.random.default_rng(0)
    values = {name: chooser.normal(size=s).astype("f4") for name, s in TEACHER.items()}
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=x) for name, x in values.items()]
        session.run(tf.global_variables_initializer())
        path = str(tmp_path_factory.mktemp("teacher") / "model.ckpt-1")
        tf.train.Saver(variables).save(session, path, write_meta_graph=False)
    return path, values


def choose_by_hand(wi: np.ndarray, wo: np.ndarray) -> list[tuple[int, int]]:
    """The F / E units of each expert with the largest product of norms, in order."""
    chosen = []
    for expert in range(E):
        scores = {
            unit: np.sqrt((wi[expert][:, unit] ** 2).sum() * (wo[expert][unit] ** 2).sum())
            for unit in range(F)
        }
        best = sorted(scores, key=scores.get, reverse=True)[: F // E]
        chosen += [(expert, unit) for unit in best]
    return chosen


@pytest.mark.parametrize("init", ["non_expert", "mean_expert", "sum_expert", "top_expert"])
def test_the_weights_in_the_graph_are_those_of_the_plan(checkpoint, init) -> None:
    path, values = checkpoint
    with tf.Graph().as_default(), tf.Session() as session:
        tf.train.get_or_create_global_step()
        for name, shape in STUDENT.items():
            tf.get_variable(name, shape, initializer=tf.constant_initializer(7.0))
        weights_of_teacher.load_into_graph(path, init)
        session.run(tf.global_variables_initializer())
        found = session.run({v.op.name: v for v in tf.global_variables()})
    for name, source in ALIGNED.items():
        np.testing.assert_array_equal(found[name], values[source])
    wi, wo = (values[f"{EXPERTS}/{kernel}/kernel"] for kernel in ("wi", "wo"))
    units = choose_by_hand(wi, wo)
    expected = {
        "non_expert": (np.full([M, F], 7.0), np.full([F, M], 7.0)),
        "mean_expert": ((wi[0] + wi[1] + wi[2]) / 3, (wo[0] + wo[1] + wo[2]) / 3),
        "sum_expert": (wi[0] + wi[1] + wi[2], wo[0] + wo[1] + wo[2]),
        "top_expert": (
            np.stack([wi[e][:, f] for e, f in units], axis=1),
            np.stack([wo[e][f] for e, f in units]),
        ),
    }[init]
    for kernel, wanted in zip(("wi", "wo"), expected):
        name = f"{SECOND_FFN}/DenseReluDense/{kernel}/kernel"
        # Sums of three numbers in float32.
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6, atol=1e-6)
