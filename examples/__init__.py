"""Networks of other kinds than those of the experiments, and what to align theirs by."""
