"""The shell: sockets, processes, clocks. It asks the core what to do and does it, in the order that it was told."""
