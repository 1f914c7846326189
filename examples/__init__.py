"""Small networks of other kinds than the experiments': `python -m examples.vit`, `python -m examples.tabular`."""
