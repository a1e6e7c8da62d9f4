"""How fast and how small, in one run beside Open vSwitch's own tools and OVN: `python -m bench [NAME...] [--quick]`."""
