"""nova-compute, with the lab's hypervisor: Nova looks for hypervisors among its own only, so ours is put there."""

from __future__ import annotations

import sys

NAME = "ebbtide_lab.LabDriver"


def main() -> None:
    """As the command nova-compute."""
    from nova.cmd import compute

    from . import hypervisor

    sys.modules["nova.virt.ebbtide_lab"] = hypervisor
    sys.exit(compute.main())


if __name__ == "__main__":
    main()
