"""Desired against installed: what one switch must be sent, in order. Pure: bytes and values in, work out."""
