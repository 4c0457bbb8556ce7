"""Einsums as matrix products: equal to NumPy's, and without needless copies.

The tensors hold small integers, whose sums every dtype here holds exactly. There is no tolerance.
"""

from __future__ import annotations

import random

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from mesh_tensorflow import simd_mesh_impl

from mtf_switch.model import matrix_products
from mtf_switch.model.mesh_impls import SeededSimdMeshImpl

SIZES = dict(zip("abcdefghlm", (2, 3, 4, 5, 6, 7, 2, 3, 4, 5)))


def draw(letters: str, seed: int) -> np.ndarray:
    """Integers from -2 to 2: at most 120 products of them are summed, which bfloat16 holds."""
    shape = [SIZES[letter] for letter in letters]
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def compute(equations: list[str], dtype=tf.float32) -> tuple[list[np.ndarray], list[list[str]]]:
    """Returns the result of each equation, and the types of the operations that it made."""
    results, made = [], []
    with tf.Graph().as_default() as graph, tf.Session() as session:
        for equation in equations:
            inputs = equation.split("->")[0].split(",")
            tensors = [tf.constant(draw(ds, i), dtype) for i, ds in enumerate(inputs)]
            before = len(graph.get_operations())
            results.append(matrix_products.einsum(equation, *tensors))
            assert results[-1].dtype == dtype
            made.append([op.type for op in graph.get_operations()[before:]])
        return session.run([tf.cast(result, tf.float32) for result in results]), made


def expect(equation: str) -> np.ndarray:
    inputs = equation.split("->")[0].split(",")
    return np.einsum(equation, *(draw(letters, i) for i, letters in enumerate(inputs)))


# Equation -> how many tensors it transposes, and the product that it uses.
PRODUCTS = {
    # A dense layer, its two gradients, and the gradients in the other order of arguments.
    "alc,cd->ald": (0, "MatMul"),
    "ald,cd->alc": (0, "MatMul"),
    "alc,ald->cd": (0, "MatMul"),
    "ald,alc->cd": (0, "MatMul"),
    "cd,ald->alc": (0, "MatMul"),
    # Slots of experts, and their gradients.
    "gac,gcd->gad": (0, "BatchMatMulV2"),
    "gad,gcd->gac": (0, "BatchMatMulV2"),
    "gac,gad->gcd": (0, "BatchMatMulV2"),
    # Attention with heads before positions: only the keys are transposed.
    "ahld,amhd->ahlm": (1, "BatchMatMulV2"),
    "ahlm,amhd->ahld": (1, "BatchMatMulV2"),
    "ahlm,ahld->amhd": (1, "BatchMatMulV2"),
    # Attention in Mesh TF's order.
    "alhd,amhd->alhm": (3, "BatchMatMulV2"),
    # Several reduced dimensions, in another order in each tensor: one of them is transposed.
    "abcd,dcbe->ae": (1, "MatMul"),
    "dcba,bcde->ae": (1, "MatMul"),
    # The left tensor is transposed in any case, so the right one decides the order.
    "bacd,dcbe->ae": (1, "MatMul"),
}


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float64])
def test_a_product_equals_numpys_einsum(dtype):
    results, _ = compute(list(PRODUCTS), dtype)
    for equation, result in zip(PRODUCTS, results):
        np.testing.assert_array_equal(result, expect(equation), err_msg=equation)


def test_a_product_copies_only_tensors_whose_dimensions_are_mixed():
    _, made = compute(list(PRODUCTS))
    counts = {
        equation: (types.count("Transpose"), *(t for t in types if "MatMul" in t))
        for equation, types in zip(PRODUCTS, made)
    }
    assert counts == PRODUCTS


def test_random_products_equal_numpys_einsum():
    chooser = random.Random(0)
    equations = []
    while len(equations) < 40:
        letters = chooser.sample("abcdefg", 7)
        ends = sorted(chooser.sample(range(1, 8), 3)) if len(equations) % 4 else [0, 2, 4]
        batch, rows, columns, reduced = np.split(letters, ends)
        orders = (
            chooser.sample(part, len(part))
            for part in ([*batch, *rows, *reduced], [*batch, *columns, *reduced])
        )
        output = chooser.sample(
            [*batch, *rows, *columns], len(batch) + len(rows) + len(columns)
        )
        equations.append("{},{}->{}".format(*map("".join, (*orders, output))))
    results, _ = compute(equations, tf.float64)
    for equation, result in zip(equations, results):
        np.testing.assert_array_equal(result, expect(equation), err_msg=equation)


@pytest.mark.parametrize(
    "equation",
    [
        "ab->ba",  # one tensor
        "ab,bc,cd->ad",  # three tensors
        "ab,ab->a",  # no rows and no columns
        "abc,c->ab",  # no columns
        "ab,cd->abcd",  # nothing is reduced
        "abc,cd->ad",  # a dimension of one tensor is reduced
    ],
)
def test_other_equations_are_left_to_tensorflow(equation):
    (result,), (made,) = compute([equation])
    np.testing.assert_array_equal(result, expect(equation))
    assert "Einsum" in made


@pytest.mark.parametrize("devices", [1, 4])
def test_the_mesh_of_one_machine_uses_products_for_results_and_gradients(devices):
    x, kernel = draw("alc", 0), draw("cd", 1)
    dims = {"a": "batch", "l": "length", "c": "d_model", "d": "d_ff"}
    name = " ".join

    def build(mesh):
        mtf_x = mesh_harness.constant(mesh, np.tile(x, (2, 1, 1)), name(dims[d] for d in "alc"))
        mtf_kernel = mesh_harness.constant(mesh, kernel, name(dims[d] for d in "cd"))
        y = mtf.einsum([mtf_x, mtf_kernel], reduced_dims=[mtf_x.shape[-1]])
        return [y, *mtf.gradients([mtf.reduce_sum(mtf.square(y))], [mtf_x, mtf_kernel])]

    outcome = mesh_harness.evaluate(build, devices=devices, layout="batch:all")
    x = np.tile(x, (2, 1, 1))
    y = np.einsum("alc,cd->ald", x, kernel)
    expected = [
        y,
        np.einsum("ald,cd->alc", 2 * y, kernel),
        np.einsum("alc,ald->cd", x, 2 * y),
    ]
    for result, wanted in zip(outcome["value"], expected):
        np.testing.assert_array_equal(result, wanted)
    types = [op.type for op in outcome["tf_graph"].get_operations()]
    assert types.count("MatMul") == 3 * devices
    assert "Einsum" not in types


def test_the_program_of_a_tpu_keeps_mesh_tensorflows_einsums():
    assert SeededSimdMeshImpl.einsum is simd_mesh_impl.SimdMeshImpl.einsum
