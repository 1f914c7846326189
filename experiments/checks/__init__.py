"""What `python -m experiments.doctor` looks at. A check takes what it needs and returns findings."""
