"""The kinds of records that a load can write: each is one description, and the engine knows none of them."""
