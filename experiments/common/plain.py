"""Names for mappings that may hold anything, since somebody else says what they hold. Imports nothing.

What this project puts together itself has a class or a TypedDict that names its keys.
"""

from __future__ import annotations

from typing import Any

# What a YAML, JSON or TOML file holds, or will hold: its class (a schema, a part of a record) knows the keys and may
# refuse what was read.
Plain = dict[str, Any]

# A configuration that Hydra composed, or a node of it: the schema knows the keys of a file and of a stage, and the
# arguments of a module are known to that module alone.
Config = dict[str, Any]

# Keyword arguments, by the names that another library or a definition of modules/ gives them.
Arguments = dict[str, Any]
