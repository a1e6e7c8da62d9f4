"""Frozen facts and the State they make up. Pure values: nothing here knows a wire, a clock or a file."""
