"""Neutron's side of Ebbtide.

mechanism   ML2: networks, subnets, ports, their bindings
groups      security groups
routers     the router service: routers, floating IPs
journal     what has changed, written in the transaction that changes it; who may send it
objects     what is sent of it, read when it is sent
worker      the process that does so, of which one at a time
sender      from the journal to the controller
follower    from the controller to Neutron: what its events say
statuses    of ports
hosts       as agents
compare     what Neutron has against what the controller has
sync        the same, by hand
"""
