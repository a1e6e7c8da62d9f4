"""Column types: every value makes the way out and back; wrong ones are refused on the right side."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.ovsdb import DatabaseSchema, NamedUuid, parse_schema
from ebbtide.ovsdb.values import ZERO_UUID, BaseType, ColumnType, decoder_for, default_for, encoder_for

ATOMS: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "boolean": st.booleans(),
    "string": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    "uuid": st.uuids().map(str),
}
KINDS = sorted(ATOMS)
WRONG = [
    None,
    [],
    {},
    ["set"],
    ["set", 1],
    ["map", 1],
    ["map", [1]],
    ["map", [["a"]]],
    ["uuid", 5],
    ["uuid", "x"],
    10**30,
]


@st.composite
def columns_with_value(draw: st.DrawFn) -> tuple[ColumnType, Any]:
    key = draw(st.sampled_from(KINDS))
    form = draw(st.sampled_from(["scalar", "optional", "set", "map"]))
    if form == "scalar":
        return ColumnType(BaseType(key)), draw(ATOMS[key])
    if form == "optional":
        return ColumnType(BaseType(key), None, 0, 1), draw(st.none() | ATOMS[key])
    if form == "set":
        return ColumnType(BaseType(key), None, 0, None), draw(st.frozensets(ATOMS[key], max_size=5))
    value = draw(st.sampled_from(KINDS))
    column = ColumnType(BaseType(key), BaseType(value), 0, None)
    return column, draw(st.dictionaries(ATOMS[key], ATOMS[value], max_size=5))


@given(columns_with_value())
def test_out_and_back(drawn: tuple[ColumnType, Any]) -> None:
    column, value = drawn
    json = msgspec.json.decode(msgspec.json.encode(encoder_for(column)(value)))
    assert decoder_for(column)(json) == value
    assert decoder_for(column)(msgspec.json.decode(msgspec.json.encode(encoder_for(column)(default_for(column))))) == (
        default_for(column)
    )


def test_one_element_may_stand_alone() -> None:
    several = ColumnType(BaseType("integer"), None, 0, None)
    assert decoder_for(several)(5) == {5}
    assert decoder_for(ColumnType(BaseType("integer")))(["set", [5]]) == 5
    optional = ColumnType(BaseType("uuid"), None, 0, 1)
    assert decoder_for(optional)(["uuid", str(ZERO_UUID)]) == ZERO_UUID
    assert decoder_for(optional)(["set", [["uuid", str(ZERO_UUID)]]]) == ZERO_UUID
    assert decoder_for(optional)(["set", []]) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["scalar", "optional", "set", "map"])
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_wrong_json_is_refused(kind: str, form: str, wrong: object) -> None:
    base = BaseType(kind)
    column = {
        "scalar": ColumnType(base),
        "optional": ColumnType(base, None, 0, 1),
        "set": ColumnType(base, None, 0, None),
        "map": ColumnType(base, base, 0, None),
    }[form]
    with pytest.raises(RemoteProtocolError):
        decoder_for(column)(wrong)


@pytest.mark.parametrize("json", [["set", [1, 1]], ["set", [1, "a"]], ["set", [1, 2, 3, 4]], ["set", []], True])
def test_sets_keep_to_their_type(json: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decoder_for(ColumnType(BaseType("integer"), None, 1, 3))(json)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (ColumnType(BaseType("integer", low=1, high=4094)), 0),
        (ColumnType(BaseType("integer")), True),
        (ColumnType(BaseType("integer")), 2**63),
        (ColumnType(BaseType("string", high=3)), "four"),
        (ColumnType(BaseType("string", enum=frozenset({"a"}))), "b"),
        (ColumnType(BaseType("string")), "nul\0"),
        (ColumnType(BaseType("real")), float("nan")),
        (ColumnType(BaseType("uuid")), "br-int"),
        (ColumnType(BaseType("string"), BaseType("string"), 0, None), {"a": 1}),
        (ColumnType(BaseType("string"), None, 0, 2), {"a", "b", "c"}),
        (ColumnType(BaseType("string")), None),
    ],
)
def test_wrong_values_of_ours_are_refused(column: ColumnType, value: object) -> None:
    with pytest.raises(LocalProtocolError):
        encoder_for(column)(value)


def test_a_row_to_be_goes_out_by_its_name() -> None:
    column = ColumnType(BaseType("uuid"), None, 0, None)
    assert encoder_for(column)({NamedUuid("b"), NamedUuid("a")}) == ["set", [["named-uuid", "a"], ["named-uuid", "b"]]]


def test_the_schema_of_a_compute(vswitch: DatabaseSchema) -> None:
    assert vswitch.name == "Open_vSwitch"
    port = vswitch.tables["Port"]
    assert port.columns["vlan_mode"].type.key.enum == {
        "access",
        "dot1q-tunnel",
        "native-tagged",
        "native-untagged",
        "trunk",
    }
    assert port.columns["trunks"].type.max == 4096
    assert port.columns["statistics"].ephemeral
    assert not port.columns["name"].mutable
    assert not port.is_root
    assert vswitch.tables["Open_vSwitch"].max_rows == 1


def _schema(type_: object) -> object:
    return {"name": "d", "tables": {"t": {"columns": {"c": {"type": type_}}}}}


@pytest.mark.parametrize(
    "json",
    [
        None,
        {},
        {"name": "d", "tables": []},
        {"name": 5, "tables": {}},
        {"name": "d", "tables": {"t": {"columns": {"c": {}}}}},
        _schema("number"),
        _schema({"key": "integer", "max": "many"}),
        _schema({"key": "integer", "min": 2, "max": 3}),
        _schema({"key": "integer", "min": -1}),
        _schema({"key": "integer", "max": 0}),
        _schema({"key": {"type": "string", "enum": ["set", [1]]}}),
        _schema({"key": {"type": "integer", "minInteger": "x"}}),
        _schema({"key": "integer", "value": {"type": ["list"]}}),
    ],
)
def test_wrong_schemas_are_refused(json: object) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_schema(json)
