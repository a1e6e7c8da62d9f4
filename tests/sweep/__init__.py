"""The crash sweep: simulated computes that speak the real protocols and keep their tables, and what stands on the wires to them."""
