"""The YANG modules that ship with the package, and what they say of an RPC's input (RFC 7951, RFC 7950 section 7.14).

yangson judges; this file loads it once and turns its words into ours, with the path of the offending part.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from yangson import DataModel
from yangson.enumerations import ContentType
from yangson.exceptions import AnnotationException, RawMemberError, ValidationError, YangsonException

from ebbtide.errors import BadInput

_MALFORMED = "malformed-message"
FOLDER = Path(__file__).parent / "yang"


class Schema:
    """The data model of all modules."""

    def __init__(self) -> None:
        text = (FOLDER / "library.json").read_text()
        self.library: dict[str, Any] = json.loads(text)
        self._model = DataModel(text, (str(FOLDER),))

    def check_input(self, module: str, rpc: str, given: Any) -> dict[str, Any]:
        """The content of an RPC's input node, checked.

        Raises:
            BadInput: with error-tag and path as RFC 8040 has them.
        """
        try:
            node = self._model.from_raw({f"{module}:input": given}, f"{module}:{rpc}")
            node.validate(ctype=ContentType.all)
        except RawMemberError as error:
            path = _path(str(error.path))
            raise BadInput(f"{_last(path)} is not a leaf of {module}:{rpc}", path, "unknown-element") from None
        except AnnotationException as error:
            raise BadInput(f"metadata is not taken here: {error}", f"/{module}:input", "unknown-attribute") from None
        except ValidationError as error:
            raise BadInput(f"{error.message or error.tag}", _path(str(error.instance.json_pointer()))) from None
        except YangsonException as error:
            path = _path(str(getattr(error, "path", "")))
            raise BadInput(f"{_last(path)}: {getattr(error, 'message', error)}", path) from None
        found: dict[str, Any] = {}
        for name, value in given.items():
            leaf = name.rpartition(":")[2]
            if leaf in found:
                raise BadInput(
                    f"{leaf} is there twice, with and without its module", f"/{module}:input/{leaf}", _MALFORMED
                )
            found[leaf] = value
        return found


@cache
def load() -> Schema:
    """The one schema: it never changes while the process lives."""
    return Schema()


def _path(pointer: str) -> str:
    """A JSON pointer as an instance identifier: positions count from 1."""
    return re.sub(r"/(\d+)(?=/|$)", lambda found: f"[{int(found[1]) + 1}]", pointer)


def _last(path: str) -> str:
    return path.rpartition("/")[2] or "input"
