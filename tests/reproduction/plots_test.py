"""The curves of a plot whose seeds were evaluated at different steps."""

from __future__ import annotations

import numpy as np
from made_results import make_result
from matplotlib.figure import Figure

from mtf_switch.reproduction import catalog, plots


def test_a_seed_that_was_interrupted_does_not_hide_the_curve() -> None:
    regular = [(0, -7.0), (100, -3.0), (200, -2.0), (300, -1.5)]
    interrupted = [(0, -7.0), (100, -3.2), (150, -2.8), (250, -2.2), (300, -1.7)]
    curves = [regular, regular, interrupted]
    of_row = {seed: make_result(seed=seed, curve=curve) for seed, curve in enumerate(curves)}
    table = catalog.EXHIBITS["table_11"]
    results = {table.rows[0].name: of_row}
    axis = Figure().subplots()
    plots.PLOTS["quality_by_step"](axis, table, table.rows[:1], results)
    (line,) = axis.get_lines()
    # The first two fifths are not shown. -2.5 is between -2.8 and -2.2.
    np.testing.assert_allclose(line.get_xdata(), [200, 300])
    np.testing.assert_allclose(line.get_ydata(), [-6.5 / 3, -4.7 / 3])
