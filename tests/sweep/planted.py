"""A controller with a fault planted in it: `python -m tests.sweep.planted ARGUMENTS`, as `python -m ebbtide ARGUMENTS`.

The row that says that an end goes on is written after what it announces, in a transaction of its own. Who is killed between the two has
removed computes, and nobody proves it. A sweep must see that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ebbtide.cli.main import main
from ebbtide.model.facts import Edit, Operation
from ebbtide.model.state import State
from ebbtide.runtime.store import Store

_commit = Store.commit


async def _late(self: Store, decide: Callable[[State], tuple[list[Edit], Any]]) -> Any:
    announced: list[Edit] = []

    def acted(state: State) -> tuple[list[Edit], Any]:
        edits, answer = decide(state)
        announced[:] = [e for e in edits if e.old is None and isinstance(e.new, Operation) and e.new.verb == "end"]
        return [e for e in edits if e not in announced], answer

    answer = await _commit(self, acted)
    if announced:
        await _commit(self, lambda state: (announced, None))
    return answer


if __name__ == "__main__":
    Store.commit = _late  # type: ignore[method-assign,assignment]
    sys.exit(main())
