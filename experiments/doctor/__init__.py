"""Whether all is in order: versions, machine, data (in the words of its readers), a run's folder.

It has to run where packages are missing, so its modules import the standard library and each other;
everything else is imported inside a check, which `findings.guarded` runs.
"""
