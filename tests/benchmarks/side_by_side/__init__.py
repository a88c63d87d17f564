"""The parts of ``bench_side_by_side.py``."""
