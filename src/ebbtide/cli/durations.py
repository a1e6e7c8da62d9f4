"""Durations on the command line."""

from __future__ import annotations

from typing import Any

import click


class Seconds(click.ParamType[float]):
    """10, 10s, 500ms, 2m or 1h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
            if text.endswith(unit):
                try:
                    found = float(text.removesuffix(unit)) * factor
                except ValueError:
                    break
                if 0 <= found < float("inf"):
                    return found
                break
        raise click.BadParameter(f"{text!r} is no duration: 10s, 500ms, 2m, 1h", ctx, param)
