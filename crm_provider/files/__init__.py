"""Local disks and object stores through one interface: paths, journals, locks, temporary databases."""
