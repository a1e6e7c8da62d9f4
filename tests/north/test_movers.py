"""Movers that say odd things: each is refused with a word, and nothing of it is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.north.site import Site

MOVERS = "/api/v1/movers"
HOST = {"compute": "c1", "host": "h1", "state": "matched"}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("nova/claim", {"mover": "m", "free": -1}, "free = -1"),
        ("nova/claim", {"mover": "", "free": 1}, "mover: its name"),
        ("nova/claim", {"mover": "m" * 201, "free": 1}, "mover: its name"),
        ("nova/claim", {"mover": "a\nb", "free": 1}, "mover: its name"),
        ("a%0Ab/claim", {"mover": "m", "free": 1}, "the name of a kind of mover"),
        ("%00/claim", {"mover": "m", "free": 1}, "the name of a kind of mover"),
        (f"{'x' * 41}/claim", {"mover": "m", "free": 1}, "the name of a kind of mover"),
        ("a-b/hosts", {"mover": "m", "operation": "", "hosts": []}, "the name of a kind of mover"),
        ("nova/hosts", {"mover": "", "operation": "", "hosts": []}, "mover: its name"),
        ("nova/hosts", {"mover": "m", "operation": "", "hosts": [HOST, HOST]}, "named twice"),
        ("nova/hosts", {"mover": "m", "operation": "", "hosts": [{**HOST, "state": "fine"}]}, "state = 'fine'"),
        ("nova/report", {"mover": "", "operation": "o", "vm": "v", "claim": 1, "failure": ""}, "mover: its name"),
    ],
)
def test_what_is_odd_is_refused(site: Site, path: str, body: dict[str, Any], words: str) -> None:
    answer = site.post(f"{MOVERS}/{path}", body)
    assert answer.status == 400, answer.raw
    assert words in answer.json["error"]["message"]
    assert "ebbtide_mover_silent_seconds{" not in site.get("/metrics").raw.decode()
