"""Whether all is in order, where packages may be missing: `findings.guarded` runs its checks, and they
alone import more than the standard library and each other.
"""
