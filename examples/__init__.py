"""Networks of other kinds than those of the experiments, with standard training beside them."""
