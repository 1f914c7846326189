"""Whether all is in order. It has to run where packages are missing, so that its modules import the
standard library and each other; all else is imported inside checks, which `findings.guarded` runs.
"""
