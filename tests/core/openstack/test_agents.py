"""How DHCP of a network moves to another agent, as Neutron shows it look by look."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ebbtide.openstack.agents import RESERVED, Act, Agent, Step, heir, step
from ebbtide.openstack.servers import DHCP_OWNER, Port

OLD, NEW, FULL = (
    Agent("a", "c1", alive=True, networks=3),
    Agent("b", "c2", alive=True, networks=1),
    Agent("c", "c3", alive=True, networks=7),
)
STAYING = {"c2", "c3"}


def port(host: str, device: str = "dhcp-of-it", *, active: bool = True) -> Port:
    return Port(f"p-{host}", DHCP_OWNER, device, "n", host, active)


OURS = port("c1")


def test_the_agent_with_the_fewest_networks_is_given_it() -> None:
    assert step("c1", STAYING, [OLD, FULL, NEW], {"a"}, [OURS]) == Step(Act.ADD, "b")


def test_nothing_is_taken_away_before_the_other_ones_port_is_active() -> None:
    found = step("c1", STAYING, [OLD, NEW], {"a", "b"}, [OURS])
    assert (found.act, "on c2" in found.about) == (Act.WAIT, True)
    made = port("c2", active=False)
    assert step("c1", STAYING, [OLD, NEW], {"a", "b"}, [OURS, made]).act is Act.WAIT
    assert step("c1", STAYING, [OLD, NEW], {"a", "b"}, [OURS, made._replace(active=True)]) == Step(Act.REMOVE, "a")


def test_a_network_that_another_agent_has_already_is_given_to_nobody() -> None:
    assert step("c1", STAYING, [OLD, NEW, FULL], {"a", "c"}, [OURS, port("c3")]) == Step(Act.REMOVE, "a")


def test_where_an_agent_makes_no_port_another_one_is_tried() -> None:
    assert step("c1", STAYING, [OLD, NEW, FULL], {"a", "b"}, [OURS], slow={"a", "b"}) == Step(Act.ADD, "c")
    assert step("c1", STAYING, [OLD, NEW], {"a", "b"}, [OURS], slow={"a", "b"}).act is Act.WAIT
    late = step("c1", STAYING, [OLD, NEW], {"a", "b"}, [OURS, port("c2")], slow={"a", "b"})
    assert late == Step(Act.REMOVE, "a"), "it has one after all"


def test_the_port_that_neutron_keeps_is_deleted() -> None:
    assert step("c1", STAYING, [OLD, NEW], {"b"}, [OURS._replace(device=RESERVED)]) == Step(Act.CLEAN, "p-c1")
    assert step("c1", STAYING, [OLD, NEW], {"b"}, []) == Step(Act.DONE)
    assert step("c1", STAYING, [OLD, NEW], {"b"}, [port("c9", RESERVED)]) == Step(Act.DONE), "not this one's"


def test_a_port_that_no_agent_has_is_waited_for_and_named() -> None:
    found = step("c1", STAYING, [OLD, NEW], {"b"}, [OURS, port("c2")])
    assert (found.act, "p-c1 is there still" in found.about) == (Act.WAIT, True)


def test_hosts_that_do_not_stay_and_agents_that_are_down_or_off_take_nothing_over() -> None:
    down, off = NEW._replace(alive=False), NEW._replace(on=False)
    for agents in ([OLD, down], [OLD, off]):
        found = step("c1", STAYING, agents, {"a"}, [OURS])
        assert (found.act, "works on c2" in found.about) == (Act.WAIT, True)
    for staying, agents in (({"c3"}, [OLD, NEW]), (STAYING, [OLD])):
        assert step("c1", staying, agents, {"a"}, [OURS]).act is Act.FAILED
    # One that is down has the network: another one is given it.
    assert step("c1", STAYING, [OLD, down, FULL], {"a", "b"}, [OURS]) == Step(Act.ADD, "c")


def test_a_network_that_nobody_serves_has_an_heir_unless_somebody_else_has_it() -> None:
    assert heir("c1", STAYING, [OLD, FULL, NEW], {"a"}) == NEW
    assert heir("c1", STAYING, [OLD, FULL, NEW], {"a", "c"}) is None
    assert heir("c1", {"c1"}, [OLD, FULL, NEW], {"a"}) is None


HOSTS = st.sampled_from(["c1", "c2", "c3", "c4"])


@given(
    staying=st.frozensets(HOSTS),
    works=st.dictionaries(HOSTS, st.booleans()),
    serving=st.frozensets(HOSTS),
    slow=st.frozensets(HOSTS),
    ports=st.dictionaries(HOSTS, st.tuples(st.booleans(), st.booleans())),
)
def test_a_network_is_never_without_an_agent_whose_port_is_active(
    staying: frozenset[str],
    works: dict[str, bool],
    serving: frozenset[str],
    slow: frozenset[str],
    ports: dict[str, tuple[bool, bool]],
) -> None:
    agents = [Agent(f"a-{host}", host, alive) for host, alive in works.items()]
    made = [port(host, RESERVED if kept else "d", active=up) for host, (kept, up) in ports.items()]
    found = step("c1", staying, agents, {f"a-{h}" for h in serving}, made, {f"a-{h}" for h in slow})
    if found.act is Act.REMOVE:
        assert found.about == "a-c1"
        assert {h for h in serving & staying - {"c1"} if works.get(h) and ports.get(h) == (False, True)}
    if found.act is Act.ADD:
        host = found.about.removeprefix("a-")
        assert works[host]
        assert host in staying - serving - slow - {"c1"}
    if found.act is Act.CLEAN:
        assert ports["c1"][0]
        assert not ("c1" in serving and "c1" in works)
