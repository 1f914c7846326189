"""One network of a finished run as an ordinary checkpoint, with its source and a model card.

`python -m experiments.export --help`; docs/export.md says what is written and how to load it.
"""
