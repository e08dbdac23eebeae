"""What everything stands on: errors, files, locks, digests, random state."""
