"""Data of CopyScope: a gallery of coloured images with artists in it, originals, and what workflows generated."""
