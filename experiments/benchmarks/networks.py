"""`make bench`: what the frame costs, as ratios against plain PyTorch, and what a paper's networks cost beside
independent implementations of them; always measured side by side in one process."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

from rich.table import Table

from experiments.benchmarks.alternate import alternate, spread
from experiments.commands import cli
from experiments.common.errors import InputError
from experiments.config import compose, written
from experiments.config.networks import Pair
from experiments.pages.console import out

HELP = """\
Measure the frame: the cost of a training step against a hand-written loop, images in memory against torchvision's
transforms, photos against timm's loader. With a paper, measure its networks against independent implementations
(`bench` in its file): inference and, unless one of them is frozen, a training step.

  python -m experiments.benchmarks.networks                        about three minutes on one core
  python -m experiments.benchmarks.networks rounds=5               more rounds, less noise
  python -m experiments.benchmarks.networks paper=K                the networks of one paper
  python -m experiments.benchmarks.networks paper=K only=tiny      those whose name contains a text

Each pair is measured alternately; the best round of each counts, and the spread of all rounds is shown.

"""


def main(argv: list[str]) -> int:
    options = {"rounds": "3", "paper": "", "only": ""}
    for argument in argv:
        key, _, value = argument.partition("=")
        if key not in options:
            raise InputError(f"{argument!r}: expected rounds=N, paper=K or only=TEXT")
        options[key] = value
    if not options["rounds"].isdigit() or int(options["rounds"]) < 1:
        raise InputError(f"rounds={options['rounds']}: expected a whole number from 1")
    rounds = int(options["rounds"])
    import torch

    torch.set_num_threads(1)
    if options["paper"]:
        return networks(options["paper"], options["only"], rounds)
    from experiments.benchmarks.frame import frame

    return frame(rounds, options["only"])


def networks(paper: str, only: str, rounds: int) -> int:
    """Time a paper's networks beside independent ones. Raises InputError if it names none."""
    items = compose.paper_file(paper).get("bench") or []
    pairs = [written.read(Pair, item, f"bench.{number}") for number, item in enumerate(items)]
    if not (chosen := [pair for pair in pairs if only in pair.name]):
        names = f"; it has {', '.join(pair.name for pair in pairs)}" if pairs else ""
        raise InputError(f"{paper} has no network to compare{f' called {only!r}' if only else ''}{names}")
    table = Table(title=f"{paper}: best of {rounds} rounds, one thread, fp32", title_justify="left")
    for column in ("network", "parameters", "what", "theirs", "ours", "ratio", "ratio round by round"):
        table.add_column(column, justify="left" if column in ("network", "what") else "right")
    for pair in chosen:
        for row in _pair_rows(pair, rounds):
            table.add_row(*row)
    out.print(table)
    return 0


def _pair_rows(pair: Pair, rounds: int) -> list[list[str]]:
    import torch

    from experiments.config.instantiate import build

    both = [build(pair.theirs, f"bench {pair.name}.theirs"), build(pair.ours, f"bench {pair.name}.ours")]
    counts = list(dict.fromkeys(f"{sum(p.numel() for p in network.parameters()):,}" for network in both))
    x = torch.randn(pair.batch, *pair.input)
    rows = []
    functions = [("inference", _inference_seconds), ("training step", _step_seconds)]
    if not all(any(p.requires_grad for p in network.parameters()) for network in both):
        del functions[1]  # a frozen network is not trained
    for what, timed in functions:
        theirs, ours = alternate(rounds, [partial(timed, network, x) for network in both])
        each = sorted(b / a for a, b in zip(theirs, ours, strict=True))
        shown = [spread(theirs, 1e3, "ms"), spread(ours, 1e3, "ms"), f"{min(ours) / min(theirs):.3f}"]
        rows.append([pair.name, " / ".join(counts), f"{what}, {pair.batch} images", *shown])
        rows[-1].append(f"{each[0]:.3f} to {each[-1]:.3f}")
    return rows


def _inference_seconds(network: Any, x: Any) -> float:
    """CPU seconds of one forward pass."""
    import torch

    network.eval()
    with torch.inference_mode():
        began = time.process_time()
        network(x)
    return time.process_time() - began


def _step_seconds(network: Any, x: Any) -> float:
    """CPU seconds of forward, backward and an SGD update."""
    import torch

    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    began = time.process_time()
    optimizer.zero_grad()
    network(x).square().mean().backward()
    optimizer.step()
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0, or 2 on wrong input"))
