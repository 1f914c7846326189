"""Whether all is in order: versions, machine, data and a run's folder, with what mends each.
What a reader of data refuses is said in its own words.

It has to run where packages are missing, so its modules import the standard library and each other;
everything else is imported inside a check, which `findings.guarded` runs.
"""
