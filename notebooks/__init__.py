"""Notebooks that import the packages; `python -m notebooks.repository` gives them an address."""
