"""What the numbers of many runs mean: names, tables, summaries, claims and their tests.

It imports `configs` and `system`: no matplotlib, no HTML, no run.
"""
