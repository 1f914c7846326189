"""How numbers look: figures and self-contained pages, from the JSON of a run or a suite alone.

It imports `results`, `configs` and `system`. What lies in `assets` is written into pages.
"""
