"""What the tests of the benchmarks share."""

from __future__ import annotations

import pytest


@pytest.fixture
def gemm_rates(monkeypatch):
    """FLOP/s of large matrix products, which would take seconds to measure."""
    import measure

    rates = {"tensorflow": 2e9, "torch": 1e9}
    monkeypatch.setattr(measure, "measure_gemm_rates", lambda hf_python: rates)
    return rates
