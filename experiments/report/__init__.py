"""How numbers look: figures and self-contained pages, from the JSON of a run or a suite alone.

`run_page` and `suite_page` are the two report.html; the cells of tables are from `results.tables`.
"""
