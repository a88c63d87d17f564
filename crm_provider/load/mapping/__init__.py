"""From a row of the source to a record: the fields of a mapping, compiled once, and their conversions."""
