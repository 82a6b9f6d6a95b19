"""A learned noise schedule as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure


def schedule_figure(t: Sequence[float], abar: Sequence[float], weight: Sequence[float]) -> Figure:
    """abar and the weight of the squared error over t."""
    figure, marker = Figure(figsize=(9, 3), layout="constrained"), "." if len(t) < 50 else ""
    left, right = figure.subplots(1, 2)
    left.plot(t, abar, marker=marker)
    left.set(xlabel="t", title="abar_t: how much of z_t is label")
    right.semilogy(t, weight, marker=marker)
    right.set(xlabel="t", title="weight of the squared error |uhat - u_y|^2")
    return figure
