"""The client of the API: one method for each call, and what a call passes on its way."""
