"""What people type on a command line, and errors that name the option and the remedy. Pure."""

import re
from datetime import datetime, timedelta

from vaultbrix.api.meta import is_person, parse_duration, rfc3339

LONGEST_REASON = 1024


class Misused(ValueError):
    """An option that is wrong whatever the cluster says."""


class Refused(ValueError):
    """A request that the state of the cluster does not allow."""


def parse_time(option: str, text: str) -> datetime:
    """A point in time with its offset from UTC, in whole seconds. Raises Misused."""
    example = "2026-12-01T18:00:00Z or 2026-12-01T19:00:00+01:00"
    try:
        when = datetime.fromisoformat(text)
        if not 1971 < when.year < 8999:
            raise ValueError
    except ValueError:
        raise Misused(f"{option} {text}: not a time; write it as {example}") from None
    if when.tzinfo is None:
        raise Misused(f"{option} {text}: in which time zone? write it as {example}")
    return datetime.fromisoformat(rfc3339(when))


def parse_span(option: str, text: str) -> timedelta:
    """A duration of at least a second. Raises Misused."""
    try:
        span = parse_duration(text)
    except ValueError as error:
        raise Misused(f"{option} {text}: {error}") from None
    if span < SECOND:
        raise Misused(f"{option} {text}: must be at least 1s")
    return span


def check_name(name: str, option: str = "--name") -> None:
    """The name of an object. Raises Misused."""
    if not _NAME.fullmatch(name):
        raise Misused(
            f"{option} {name}: must be lower-case letters, digits, - and ., beginning and ending with no sign"
        )


def check_texts(reason: str, requested_by: str) -> None:
    """``--reason`` and ``--requested-by``. Raises Misused."""
    if not reason.strip():
        raise Misused("--reason: say why the access is needed, for the record")
    if len(reason) > LONGEST_REASON:
        raise Misused(f"--reason: has {len(reason)} characters, at most {LONGEST_REASON} are kept; shorten it")
    if not is_person(requested_by):
        raise Misused("--requested-by: must be 1 to 256 characters without white space, such as jane@example.com")


SECOND = timedelta(seconds=1)


_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
