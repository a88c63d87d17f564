"""The outcomes file: the outcome of every row of a load, to be joined with the origin of the rows."""
