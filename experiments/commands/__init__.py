"""One file for each command that a user types; each says in HELP what it is for.

Door: nothing: commands are started, not imported, but by tests and by the entry points beside these rooms.
"""
