"""What is measured on trained networks: points, ensembles, predictors, the loss landscape.

It imports `training` and what that imports.
"""
