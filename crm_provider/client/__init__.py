"""The client of the API: one method for each call, and the steps of a call."""
