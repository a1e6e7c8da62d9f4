"""The metadata agent: what runs on a compute, and answers VMs there at http://169.254.169.254/.

    place    where VMs reach it: a network namespace of its own, with one wire to br-int
    askers   who asks: the controller knows by the address that it has given to a VM's port
    proxy    HTTP in, HTTP out, limits
    headers  what goes on to the backend, and with whose signature

It has no part in the controller, and asks it by REST as any client does (`cli/metadata.py` hands that in).
"""
