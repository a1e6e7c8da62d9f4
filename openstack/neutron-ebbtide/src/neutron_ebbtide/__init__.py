"""Neutron's side of Ebbtide.

mechanism   ML2: networks, subnets, ports, their bindings
groups      security groups
routers     the router service: routers, floating IPs
journal     what has changed, written in the transaction that changes it
worker      the one process that sends it, and brings back the ports' status and the hosts
compare     what Neutron has against what the controller has
"""
