"""From a row of the source to a contact: the lines of a mapping, compiled once, and their conversions."""
