"""The rows that were rejected: the file, its formats, and how it is sent again."""
