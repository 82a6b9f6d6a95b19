"""What every room may use: errors that lead somewhere, files that are whole or not there, paths, remembered answers.

Door: errors.InputError, errors.unknown, failure.explain, files.replacing, paths.ROOT, memory.remember, overlay.current,
overlay.home.
"""
