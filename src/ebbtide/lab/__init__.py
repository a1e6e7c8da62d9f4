"""Emulated computes on one machine: real Open vSwitch, real packets, no address of the machine touched.

    eb-L-ctl (10.255.0.1)     the controller runs here, or listens here by sockets handed out
        |
    [mgmt]                    10.255.0.0/16: OVSDB and OpenFlow; does not run through any switch under test
     |   |
    A    B                    eb-L-c-NAME: one namespace a compute, with its own ovsdb-server and ovs-vswitchd
     |   |                      br-phy (lab's): TEP address 172.31.x.y and the network card
    [data]                      br-int (controller's): taps and VXLAN ports
                                br-ex  (lab's, where asked for): the provider network
    A.br-int -- tap --[vm0]-- eb-L-v-NAME (eth0)
    B.br-int -- tap --'       a VM, on two computes while it migrates

    [ext] -- br-ex of computes, and eb-L-x-NAME: hosts outside

[x] is a Linux bridge in the fabric's namespace eb-L-net; L is the lab's name. See `lab.Lab` for what
can be done, `vm` for how a VM is wired, `migration` for its steps, `probes` for counting packets between VMs,
`flows` for connections and other traffic between VMs and a host outside.

Open vSwitch runs with its userspace datapath (`datapath_type=netdev`), or with that of the kernel where `Lab` is told so.
Needs root, iproute2, util-linux, Open vSwitch and Linux 5.18 or newer (`locked` bridge ports).
"""

from .commands import CommandFailed, wait_until
from .compute import Compute
from .lab import Lab
from .migration import Migration
from .site import CONTROLLER, MANAGER_TARGET
from .vm import PingResult, Vm

__all__ = [
    "CONTROLLER",
    "MANAGER_TARGET",
    "CommandFailed",
    "Compute",
    "Lab",
    "Migration",
    "PingResult",
    "Vm",
    "wait_until",
]
