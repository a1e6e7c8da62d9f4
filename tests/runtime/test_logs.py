"""What the controller logs of a scale-in: each line a JSON object, by which a person finds the operation and the compute again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.lab import CONTROLLER, Lab, wait_until
from tests.support.process import Process

pytestmark = pytest.mark.lab


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Process]:
    with Lab(f"l{os.getpid()}", tmp_path / "lab") as lab:
        made = Process(lab, tmp_path)
        made.start()
        for compute in lab.add_computes(["a", "b"]):
            compute.register(f"tcp:{CONTROLLER}:6640")
        made.wait_ready("a", "b")
        yield made


def one(lines: list[dict[str, Any]], event: str) -> dict[str, Any]:
    (found,) = [line for line in lines if line["event"] == event]
    return found


def test_every_step_of_a_scale_in_names_its_computes_and_its_operation(controller: Process) -> None:
    assert controller.rpc("start", "a") == 204
    assert controller.rpc("recover", "a") == 204
    assert controller.rpc("start", "a") == 204
    assert controller.rpc("end", "a") == 204
    wait_until(lambda: any(line["event"] == "scale_in_ended" for line in controller.log()), "the end to be logged")
    lines = controller.log()
    assert {"timestamp", "level", "event"} <= set(lines[0])
    started = [line for line in lines if line["event"] == "scale_in_started"]
    assert [line["computes"] for line in started] == [["a"], ["a"]]
    assert one(lines, "scale_in_recovered")["computes"] == ["a"]
    ending, ended = one(lines, "scale_in_ending"), one(lines, "scale_in_ended")
    (operation,) = controller.get("/api/v1/operations")["operations"]
    assert {ending["operation"], ended["operation"]} == {operation["id"]}
    assert ending["computes"] == ended["computes"] == ["a"]
    assert ending["revision"] < ended["revision"]
    assert {line["compute"] for line in lines if line["event"] == "ready"} == {"a", "b"}
    assert one(lines, "quarantined")["compute"] == "a"
