"""Hypothesis strategies for values of `ebbtide.compile.flow` and for messages."""

from __future__ import annotations

from hypothesis import strategies as st

from ebbtide.compile import flow as f
from ebbtide.openflow import messages as m
from ebbtide.openflow import oxm
from ebbtide.openflow.versions import PortFields

u8, u16, u32, u64 = (st.integers(0, (1 << n) - 1) for n in (8, 16, 32, 64))
REWRITTEN = {"vlan_tci", *(f"xreg{n}" for n in range(8)), *(f"xxreg{n}" for n in range(4))}
PLAIN = sorted(set(oxm.FIELDS) - REWRITTEN)
NAMED_BY_32_BITS = sorted(name for name, field in oxm.FIELDS.items() if len(field.nxm) == 4)


@st.composite
def match_field(draw: st.DrawFn, names: list[str] = PLAIN) -> f.M:
    """A field in the form in which it is decoded: no full mask, no empty mask, no bit outside the mask."""
    name = draw(st.sampled_from(names))
    field = oxm.FIELDS[name]
    value = draw(st.integers(0, field.limit))
    if field.maskable and field.limit > 1 and draw(st.booleans()):
        mask = draw(st.integers(1, field.limit - 1))
        return f.M(name, value & mask, mask)
    return f.M(name, value)


matches = st.lists(match_field(), max_size=12, unique_by=lambda m: m.name).map(
    lambda found: tuple(sorted(found, key=lambda m: m.name))
)


@st.composite
def subfield(draw: st.DrawFn, most: int = 64) -> tuple[str, int, int]:
    name = draw(st.sampled_from(NAMED_BY_32_BITS))
    bits = oxm.FIELDS[name].nxm_bits
    nbits = draw(st.integers(1, min(bits, most)))
    return name, draw(st.integers(0, bits - nbits)), nbits


@st.composite
def loads(draw: st.DrawFn) -> f.Load:
    name, offset, nbits = draw(subfield())
    return f.Load(name, offset, nbits, draw(st.integers(0, (1 << nbits) - 1)))


@st.composite
def moves(draw: st.DrawFn) -> f.Move:
    src, src_offset, nbits = draw(subfield())
    wide = [name for name in NAMED_BY_32_BITS if oxm.FIELDS[name].nxm_bits >= nbits]
    dst = draw(st.sampled_from(wide))
    return f.Move(src, dst, nbits, src_offset, draw(st.integers(0, oxm.FIELDS[dst].nxm_bits - nbits)))


set_fields = match_field(sorted(set(PLAIN) - {"in_port"})).map(lambda found: f.SetField(*found))


@st.composite
def nats(draw: st.DrawFn) -> f.Nat:
    ipv6 = draw(st.booleans())
    address = st.integers(1, (1 << (128 if ipv6 else 32)) - 1)
    low = draw(st.none() | address)
    return f.Nat(
        *(draw(st.booleans()), draw(st.booleans()), low, None if low is None else draw(st.none() | address)),
        *(draw(st.none() | u16), draw(st.none() | u16), ipv6 and low is not None),
        *(draw(st.booleans()), draw(st.booleans()), draw(st.booleans())),
    )


@st.composite
def cts(draw: st.DrawFn) -> f.Ct:
    zone_field = draw(st.none() | st.sampled_from(["reg0", "reg6", "ct_zone"]))
    return f.Ct(
        *(draw(u16) if zone_field is None else 0, zone_field, draw(st.none() | st.integers(0, 254))),
        *(draw(st.booleans()), draw(st.booleans()), draw(u16), draw(st.none() | nats())),
        tuple(draw(st.lists(set_fields | loads() | moves(), max_size=3))),
    )


@st.composite
def learn_specs(draw: st.DrawFn) -> f.LearnMatch | f.LearnLoad | f.LearnOutput:
    dst, offset, nbits = draw(subfield(128))
    if draw(st.integers(0, 4)) == 0:
        return f.LearnOutput(dst, nbits, offset)
    made = draw(st.sampled_from([f.LearnMatch, f.LearnLoad]))
    if draw(st.booleans()):
        return made(dst, nbits, offset, None, 0, draw(st.integers(0, (1 << nbits) - 1)))
    wide = [name for name in NAMED_BY_32_BITS if oxm.FIELDS[name].nxm_bits >= nbits]
    src = draw(st.sampled_from(wide))
    return made(dst, nbits, offset, src, draw(st.integers(0, oxm.FIELDS[src].nxm_bits - nbits)))


learns = st.builds(
    f.Learn,
    *(u8, u16, u64, st.lists(learn_specs(), max_size=5).map(tuple), u16, u16, u16, u16, st.booleans(), st.booleans()),
    limit=st.sampled_from([0, 0, 1, 200, 0xFFFFFFFF]),
)
ports = st.integers(1, 0xFEFF) | st.integers(0xFFFFFFF8, 0xFFFFFFFE)
actions = st.one_of(
    ports.filter(lambda p: p != f.CONTROLLER).map(f.Output),
    st.builds(f.Output, st.just(f.CONTROLLER), u16),
    st.builds(f.ToGroup, u32),
    set_fields,
    loads(),
    moves(),
    st.builds(lambda sub, n: f.OutputReg(*sub, n), subfield(), u16),
    st.builds(f.Resubmit, u8, st.booleans()),
    st.builds(f.ToController, u16, u8, u16, st.binary(max_size=20), st.booleans(), st.none() | u32),
    st.just(f.DecTtl()),
    st.builds(f.PushVlan, u16),
    st.just(f.PopVlan()),
    subfield().map(lambda sub: f.StackPush(*sub)),
    subfield().map(lambda sub: f.StackPop(*sub)),
    cts(),
    st.just(f.CtClear()),
    st.integers(1, 200).flatmap(lambda n: st.builds(f.Conjunction, u32, st.integers(1, n), st.just(n))),
    st.builds(f.Trunc, ports, u32),
    subfield().flatmap(lambda sub: st.builds(f.CheckLarger, u16, st.just(sub[0]), st.just(sub[1]))),
    learns,
)
action_lists = st.lists(actions, max_size=8).map(tuple)
metadata = st.tuples(u64, u64).map(lambda pair: (pair[0] & pair[1], pair[1]))
flows = st.builds(
    f.Flow,
    table=st.integers(0, 254),
    priority=u16,
    match=matches,
    actions=action_lists,
    goto=st.none() | u8,
    metadata=st.none() | metadata,
    meter=st.none() | u32,
    cookie=u32.map(lambda kind: kind << 32),
    idle_timeout=u16,
    hard_timeout=u16,
    send_flow_removed=st.booleans(),
)
buckets = st.lists(st.builds(f.Bucket, action_lists, u16, u32, u32), max_size=4).map(tuple)
flow_mods = st.builds(
    m.FlowMod,
    *(st.integers(0, 4), u8, u16, matches, action_lists, st.none() | u8, st.none() | metadata, st.none() | u32),
    *(u64, u64, u16, u16, u32, u32, st.integers(0, 31), u32),
)
port_fields = st.builds(
    PortFields, u32, st.integers(0, (1 << 48) - 1), st.text("abcxyz-0189", max_size=15), *([u32] * 8)
)
# Messages that both directions of the codec know, with what survives the way through the bytes.
messages = st.one_of(
    st.sets(st.integers(1, 31), min_size=1).map(lambda found: m.Hello(tuple(sorted(found, reverse=True)))),
    st.binary(max_size=40).map(m.EchoRequest),
    st.binary(max_size=40).map(m.EchoReply),
    st.builds(m.Error, st.integers(0, 0xFFFE), u16, st.binary(max_size=80)),
    st.builds(m.Error, st.just(0xFFFF), u16, st.binary(max_size=80), u32),
    st.just(m.FeaturesRequest()),
    st.builds(m.FeaturesReply, u64, u32, u8, u8, u32),
    st.just(m.GetConfigRequest()),
    st.builds(m.GetConfigReply, u16, u16),
    st.builds(m.SetConfig, u16, u16),
    flow_mods,
    st.builds(m.GroupMod, u16, u32, u8, buckets),
    st.builds(m.MeterMod, st.integers(0, 1), st.builds(f.Meter, u32, u32, u32, st.booleans())),
    st.builds(m.PacketOut, u32, action_lists, st.binary(max_size=80), u32),
    st.builds(m.PacketIn, u8, u8, u64, matches, st.binary(max_size=80), u16, u32),
    st.builds(m.PortStatus, u8, port_fields),
    st.builds(m.MultipartRequest, u16, st.binary(max_size=80), u16),
    st.builds(m.MultipartReply, u16, st.binary(max_size=80), u16),
    st.just(m.BarrierRequest()),
    st.just(m.BarrierReply()),
    st.builds(m.RoleRequest, u32, u64),
    st.builds(m.RoleReply, u32, u64),
    st.builds(m.RoleStatus, u32, u8, u64),
    st.builds(m.BundleControl, u32, u16, u16),
    st.builds(m.SetPacketInFormat, u32),
    st.builds(m.CtFlushZone, u16),
)
