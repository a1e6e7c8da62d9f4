"""What a compute shows, before and after."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from immutables import Map

from ebbtide.model.observed import Interface, differing

VIEWS = st.dictionaries(st.integers(1, 5), st.builds(Interface, st.just("tap"), st.integers(0, 2)))


@given(VIEWS, VIEWS)
def test_what_came_went_or_changed_differs_and_nothing_else(
    old: dict[int, Interface], new: dict[int, Interface]
) -> None:
    assert differing(Map(old), Map(new)) == {n for n in range(1, 6) if old.get(n) != new.get(n)}
