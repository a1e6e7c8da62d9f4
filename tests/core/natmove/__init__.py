"""The argument that a move of a router's NAT breaks no connection, checked over the compiled tables."""
