"""What a stage's result rests on, as a short hash: configuration, seed, predecessors, code and the engine's rules.

Of the code, exactly the definitions count that the configuration's targets reach (see dependencies).
Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.identity import definitions, dependencies

# The engine's own numerical rules: how it seeds, in which order batches come, what is averaged and tested. Whoever
# changes a number that the golden run of the tests holds raises this by one, and every record is stale.
ENGINE = 1
NOT_IDENTITY = {"about", "root", "num_workers"}  # they change where and how fast, not what


def targets(config: Any) -> Iterator[str]:
    """Every `_target_` in a configuration, however deep."""
    if isinstance(config, Mapping):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from targets(value)


def _identity(config: Any) -> Any:
    """The configuration with each first-party target named by the definition it means, not by the path to it."""
    if isinstance(config, Mapping):
        return {key: _identity(value) for key, value in config.items() if key not in NOT_IDENTITY} | _target(config)
    if isinstance(config, list | tuple):
        return [_identity(value) for value in config]
    return config


def _target(config: Mapping[str, Any]) -> dict[str, str]:
    target = config.get("_target_")
    if not isinstance(target, str):
        return {}
    definition = definitions.locate(target)
    if not isinstance(definition, definitions.Definition):
        return {"_target_": target}
    return {"_target_": f"{definition.name} {dependencies.content(definition).mark}"}


def fingerprint(config: Mapping[str, Any], seed: int, needs: Mapping[str, Sequence[str]]) -> str:
    """Twelve hex digits for a stage.

    Args:
        config: the stage's resolved configuration, the merged trainer with its decided precision included.
        seed: the run's seed.
        needs: constructor argument -> fingerprints of the stages that fill it.
    """
    code = dependencies.identity(tuple(sorted(set(targets(config)))))
    content = {"config": _identity(config), "seed": seed, "needs": needs, "code": code, "engine": ENGINE}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
