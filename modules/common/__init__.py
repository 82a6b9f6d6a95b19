"""Parts that more than one paper uses. Imports no paper."""
