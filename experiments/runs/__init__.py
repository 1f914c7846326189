"""What lies in the folder of one run: its training, checkpoints, records, and how it is reopened."""
