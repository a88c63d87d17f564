"""Rejected rows: their file, its formats, and the file as the source of another load."""
