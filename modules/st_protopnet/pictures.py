"""Margins of the images that prototypes are patches of."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor


def draw_margins(margins: Mapping[str, Tensor]) -> Figure:
    """A box plot for each network and branch: name -> (P,), in standard deviations of all training images."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    shown = {name: values.tolist() for name, values in margins.items() if len(values)}
    axis.boxplot([*shown.values()], showfliers=False)
    axis.set_xticks(range(1, len(shown) + 1), [name.replace("_", "\n") for name in shown], fontsize=7)
    axis.axhline(0, color="gray", linewidth=0.5)
    axis.set_ylabel("margin of the judge / sd", fontsize=8)
    return figure
