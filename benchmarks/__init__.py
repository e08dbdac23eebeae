"""What the speed and memory claims rest on: ``python -m benchmarks [NAME …]``."""
