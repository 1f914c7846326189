"""What lies in the folder of one run: its training, checkpoints, records, and how it is reopened.

It imports `report`, `results`, `evaluation`, `training`, `data`, `configs` and `system`.
"""
