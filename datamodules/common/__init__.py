"""Data, views of data and augmentation that more than one paper uses. Imports no paper."""
