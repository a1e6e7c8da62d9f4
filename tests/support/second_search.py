"""The second searcher, as the tests use it: on every compute that survived, with every identity that the removed one had."""

from __future__ import annotations

from collections.abc import Iterable

from ebbtide.lab import Lab
from ebbtide.lab.second_search import second_search
from ebbtide.model.facts import Compute


def left_of(gone: Compute, lab: Lab, *names: str, but: Iterable[str] = ()) -> list[str]:
    """What these computes hold of a removed one. `but`: identities that another rightly has by now."""
    return second_search([lab.compute(name) for name in names], gone.identities() - set(but))
