"""Accounts and endpoints of a cloud's services; runs in OpenStack's environment: accounts.py IDENTITY REGION NAME=PORT...

The password of all is in EBBTIDE_CLOUD_PASSWORD. Done twice, it changes nothing.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import openstack

_KINDS = {"placement": "placement", "glance": "image", "neutron": "network", "nova": "compute"}
_PATHS = {"nova": "/v2.1"}


def main(identity: str, region: str, *services: str) -> None:
    """Make what is missing."""
    password = os.environ["EBBTIDE_CLOUD_PASSWORD"]
    cloud: Any = openstack.connect(
        auth_url=identity,
        username="admin",
        password=password,
        project_name="admin",
        user_domain_id="default",
        project_domain_id="default",
        region_name=region,
    )
    project = cloud.identity.find_project("service") or cloud.identity.create_project(
        name="service", domain_id="default"
    )
    roles = [cloud.identity.find_role(name) or cloud.identity.create_role(name=name) for name in ("admin", "service")]
    for name, _, port in (each.partition("=") for each in services):
        user = cloud.identity.find_user(name) or cloud.identity.create_user(
            name=name, password=password, domain_id="default", default_project_id=project.id
        )
        for role in roles:
            cloud.identity.assign_project_role_to_user(project, user, role)
        known = cloud.identity.find_service(name) or cloud.identity.create_service(name=name, type=_KINDS[name])
        if not list(cloud.identity.endpoints(service_id=known.id)):
            url = f"http://127.0.0.1:{port}{_PATHS.get(name, '')}"
            cloud.identity.create_endpoint(service_id=known.id, interface="public", url=url, region_id=region)


if __name__ == "__main__":
    main(*sys.argv[1:])
