"""The outcomes file: how every row of a load ended, for joining it back to where the rows came from."""
