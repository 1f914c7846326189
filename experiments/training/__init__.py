"""What a step does: networks, methods, schedules, the loop, groups of runs, weights, meshes."""
