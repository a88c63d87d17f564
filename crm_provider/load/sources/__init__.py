"""Where the rows of a load come from: lists, CSV, JSON lines, Parquet, or an object of the user."""
