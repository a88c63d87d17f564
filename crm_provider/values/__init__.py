"""Pure functions on single values: addresses, JSON, words, texts. Know nothing of the rest of the package."""
