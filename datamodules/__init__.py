"""Data: a file or a folder for each paper that has data of its own, and `common` for what papers share."""
