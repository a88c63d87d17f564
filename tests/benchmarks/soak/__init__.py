"""The soak: hours of loads, extracts, sensors and watches with random faults, and what is checked meanwhile."""
