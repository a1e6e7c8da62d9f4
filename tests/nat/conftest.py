"""A cloud of its own for each test that asks for one."""

from tests.runtime.conftest import make_cloud

__all__ = ["make_cloud"]
