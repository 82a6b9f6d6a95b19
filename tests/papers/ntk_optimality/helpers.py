"""Duals by name, independent references and small sets of points for these tests."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import torch
from torch import Tensor

from modules.ntk_optimality.kernels import Dual, Erf, ReLU, Sine, hermite, optimal
from modules.ntk_optimality.module import DeepNetwork

DUALS: dict[str, Dual] = {
    "relu": ReLU(),
    "erf": Erf(),
    "sine1": Sine(1.0),
    "sine2.676": Sine(2.676),
    "sine6.13539": Sine(6.13539),
    "sine13.8258": Sine(13.8258),
    "d1": optimal(1),
    "d2": optimal(2),
    "d4": optimal(4),
    "d8": optimal(8),
    "h2": hermite(2),
}


def he(n: int, z: Tensor) -> Tensor:
    """Normalised probabilists' Hermite polynomials."""
    below, this = torch.zeros_like(z), torch.ones_like(z)
    for k in range(n):
        below, this = this, (z * this - math.sqrt(k) * below) / math.sqrt(k + 1)
    return this


PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda z: math.sqrt(2) * z.relu(),
    "erf": lambda z: z.erf() / math.sqrt(2 / math.pi * math.asin(2 / 3)),
    "sine1": lambda z: z.sin() / math.sqrt(math.exp(-1) * math.sinh(1)),
    "sine2.676": lambda z: (math.sqrt(2.676) * z).sin() / math.sqrt(math.exp(-2.676) * math.sinh(2.676)),
    "d1": lambda z: (he(7, z) + he(1, z)) / math.sqrt(2),
    "d2": lambda z: (he(3, z) + he(1, z)) / math.sqrt(2),
    "d4": lambda z: 0.5 * he(3, z) + math.sqrt(0.5) * he(2, z) + 0.5 * he(1, z),
    "d8": lambda z: 0.25 * he(3, z) + math.sqrt(0.875) * he(2, z) + 0.25 * he(1, z),
    "h2": lambda z: he(2, z),
}


def exact(name: str) -> tuple[Callable, Callable]:
    """A and A' on xi itself, in mpmath, as the released code writes them."""
    mp = mpmath
    if name.startswith("sine"):
        a = mp.mpf(name[4:])
        return lambda x: mp.sinh(a * x) / mp.sinh(a), lambda x: a * mp.cosh(a * x) / mp.sinh(a)
    top = mp.asin(mp.mpf(2) / 3)
    return {
        "relu": (
            lambda x: (x * (mp.pi - mp.acos(x)) + mp.sqrt(1 - x * x)) / mp.pi,
            lambda x: 1 - mp.acos(x) / mp.pi,
        ),
        "erf": (lambda x: mp.asin(2 * x / 3) / top, lambda x: mp.mpf(2) / 3 / mp.sqrt(1 - 4 * x * x / 9) / top),
        "d1": (lambda x: (x**7 + x) / 2, lambda x: (7 * x**6 + 1) / 2),
        "d2": (lambda x: (x**3 + x) / 2, lambda x: (3 * x**2 + 1) / 2),
        "d4": (lambda x: x**3 / 4 + x**2 / 2 + x / 4, lambda x: 3 * x**2 / 4 + x + mp.mpf(1) / 4),
        "d8": (lambda x: (x**3 + 14 * x**2 + x) / 16, lambda x: (3 * x**2 + 28 * x + 1) / 16),
        "h2": (lambda x: x**2, lambda x: 2 * x),
    }[name]


def rows(values: object) -> Tensor:
    x = torch.as_tensor(np.asarray(values), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def points(n: int, coordinates: int, seed: int) -> Tensor:
    return rows(np.random.default_rng(seed).dirichlet(np.ones(coordinates), n))


def network(dual: Dual, depth: int, x: Tensor, y: Tensor, kernel: str = "nngp") -> DeepNetwork:
    made = DeepNetwork(dual, depth, kernel)
    made.solve(x, y)
    return made
