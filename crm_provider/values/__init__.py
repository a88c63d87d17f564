"""Pure functions on single values: addresses, JSON, words, texts. They do not depend on the rest of the package."""
