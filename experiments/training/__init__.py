"""What a step does: networks, methods, schedules, the loop, groups of runs, weights, meshes.

It imports `data`, `configs`, `system` and the library.
"""
