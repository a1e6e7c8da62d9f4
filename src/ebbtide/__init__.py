"""Ebbtide: a controller for clusters of Open vSwitch computes that join and leave while the network runs."""

__version__ = "0.1.0"
