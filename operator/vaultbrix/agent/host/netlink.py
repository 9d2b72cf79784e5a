"""Sends and reads Netlink messages (linux/netlink.h), where pyroute2 is too slow for thousands or has no call.

A message is a header and a payload; an attribute is length, type and value, padded to 4 bytes.
"""

import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR

# Flags of a request. REQUEST: do something and say how it went. QUESTION: answer with one message, or an error. DUMP:
# answer with any number of messages.
REQUEST = NLM_F_REQUEST | NLM_F_ACK
QUESTION = NLM_F_REQUEST
DUMP = NLM_F_REQUEST | NLM_F_DUMP

# The value is further attributes (NLA_F_NESTED); the value is in network order (NLA_F_NET_BYTEORDER).
NESTED = 1 << 15
BIG_ENDIAN = 1 << 14
_TYPE = ~(NESTED | BIG_ENDIAN) & 0xFFFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")

# Answers are a few hundred bytes at most, and those of one window fit the receive buffer of any socket.
_WINDOW_MESSAGES = 64
_WINDOW_BYTES = 1 << 16
_RECEIVE_BYTES = 1 << 18
_PATIENCE_SECONDS = 5.0

# linux/socket.h, linux/netlink.h: an error does not carry the request back.
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10


@dataclass(frozen=True)
class Request:
    """One message to the kernel; ``flags`` are REQUEST, QUESTION or DUMP."""

    type: int
    payload: bytes
    flags: int = REQUEST


@dataclass
class Answer:
    """What the kernel said: an errno, 0 if all went well, and the payloads of what it sent."""

    error: int = 0
    payloads: list[bytes] = field(default_factory=list)


def attribute(type_: int, value: bytes) -> bytes:
    """Pack one attribute."""
    return _ATTRIBUTE.pack(len(value) + 4, type_) + value + bytes(-len(value) % 4)


def nested(type_: int, *attributes: bytes) -> bytes:
    """Pack an attribute whose value is attributes, already packed."""
    return attribute(type_ | NESTED, b"".join(attributes))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each attribute in the data, in order."""
    position = 0
    while position + 4 <= len(data):
        length, type_ = _ATTRIBUTE.unpack_from(data, position)
        if length < 4:
            return
        yield type_ & _TYPE, data[position + 4 : position + length]
        position += length + -length % 4


def exchange(protocol: int, requests: Sequence[Request]) -> list[Answer]:
    """Send all requests to the kernel, many in one system call; returns an answer for each. Raises OSError."""
    answers = [Answer() for _ in requests]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as kernel:
        kernel.settimeout(_PATIENCE_SECONDS)
        kernel.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        kernel.bind((0, 0))
        for window in windows(requests):
            kernel.sendto(b"".join(_message(requests[number], number) for number in window), (0, 0))
            _receive(kernel, answers, {number: requests[number].flags for number in window})
    return answers


def windows(requests: Sequence[Request]) -> Iterator[range]:
    """Split the requests into ranges that are sent together, so that their answers fit the receive buffer."""
    start, size = 0, 0
    for number, request in enumerate(requests):
        size += _HEADER.size + len(request.payload)
        if number > start and (size > _WINDOW_BYTES or number - start == _WINDOW_MESSAGES):
            yield range(start, number)
            start, size = number, _HEADER.size + len(request.payload)
    if requests:
        yield range(start, len(requests))


def _message(request: Request, number: int) -> bytes:
    padding = bytes(-len(request.payload) % 4)
    length = _HEADER.size + len(request.payload)
    return _HEADER.pack(length, request.type, request.flags, number, 0) + request.payload + padding


def _receive(kernel: socket.socket, answers: list[Answer], waiting: dict[int, int]) -> None:
    while waiting:
        data = kernel.recv(_RECEIVE_BYTES)
        position = 0
        while position + _HEADER.size <= len(data):
            length, type_, _, number, _ = _HEADER.unpack_from(data, position)
            payload = data[position + _HEADER.size : position + length]
            position += length + -length % 4
            if number not in waiting:
                continue
            if type_ in (NLMSG_ERROR, NLMSG_DONE):
                answers[number].error = -_ERRNO.unpack_from(payload)[0] if len(payload) >= 4 else 0
                del waiting[number]
            else:
                answers[number].payloads.append(payload)
                if waiting[number] == QUESTION:
                    del waiting[number]
