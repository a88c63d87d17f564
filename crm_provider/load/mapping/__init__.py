"""From a row of the source to a contact: the fields of a mapping, compiled once, and their conversions."""
