"""What is measured on trained networks: points, ensembles, predictors, the loss landscape."""
