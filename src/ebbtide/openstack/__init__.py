"""Nova, for drains: which host a compute is, what its servers need to leave it, and who sees to it. See docs/openstack.md.

It is a process of its own (`ebbtide mover nova`), which talks to the controller over REST and to the cloud by openstacksdk.
"""
