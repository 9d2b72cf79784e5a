"""Messages to the kernel: what is packed is what is read, and every request is sent once."""

from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.agent.host.netlink import BIG_ENDIAN, Request, attribute, attributes, nested, windows

TYPES = st.integers(0, 0x3FFF)
ATTRIBUTES = st.lists(st.tuples(TYPES, st.binary(max_size=40)), max_size=8)


@given(ATTRIBUTES)
def test_attributes_are_read_as_they_were_packed(packed: list[tuple[int, bytes]]) -> None:
    assert list(attributes(b"".join(attribute(*one) for one in packed))) == packed


@given(TYPES, ATTRIBUTES)
def test_nested_attributes_are_read_as_they_were_packed(type_: int, packed: list[tuple[int, bytes]]) -> None:
    data = nested(type_, *(attribute(inner | BIG_ENDIAN, value) for inner, value in packed))
    ((type_read, inside),) = attributes(data)
    assert (type_read, list(attributes(inside))) == (type_, packed)


@given(st.binary(max_size=64))
def test_garbage_is_read_to_an_end(data: bytes) -> None:
    assert len(list(attributes(data))) <= len(data) // 4


@given(st.lists(st.sampled_from([20, 400, 45_000, 65_000]), max_size=200))
def test_requests_go_once_each_in_order_and_never_too_many_at_a_time(sizes: list[int]) -> None:
    requests = [Request(1, bytes(size)) for size in sizes]
    sent = list(windows(requests))
    assert [number for window in sent for number in window] == list(range(len(requests)))
    for window in sent:
        assert len(window) <= 64
        assert len(window) == 1 or sum(16 + sizes[number] for number in window) <= 1 << 16
