"""How numbers look: figures and self-contained pages, from the JSON of a run or a suite alone."""
