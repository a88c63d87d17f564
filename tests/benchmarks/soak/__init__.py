"""The soak: an hour of loads, extracts, sensors and watches with random faults, and its checks."""
