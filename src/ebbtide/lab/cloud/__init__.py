"""A real OpenStack in a lab: Keystone, Placement, Glance, Neutron and Nova, all in the lab's control namespace, on its loopback.

Each compute of the lab has a nova-compute, whose hypervisor (`hypervisor.py`) plugs emulated VMs as libvirt does. Nothing of OpenStack is
imported here but by what runs in OpenStack's own virtual environment: `hypervisor.py` and `accounts.py`.

    .venv/bin/python -m ebbtide.lab.cloud up --computes 3

Files are below the lab's directory, and what runs ends with the lab.
"""
