"""What ``scripts/dev.py`` is made of: interpreters, virtual environments, steps, jobs. Standard library only."""
