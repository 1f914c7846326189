"""What is measured on trained networks: points, ensembles, predictors, the loss landscape.

Every metric of a prediction is one of `predictors.all_metrics`.
"""
