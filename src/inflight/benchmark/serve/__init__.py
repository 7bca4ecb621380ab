"""A server, measured by its clients over the network."""
