"""Parts shared by all kinds: object metadata, references, timestamps and durations."""

import functools
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass

GROUP = "vaultbrix.com"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
# Bounded, so that no sum overflows here, in CEL or in the calendar.
DURATION_PATTERN = r"^([0-9]{1,5}d)?([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$"
LONGEST_DURATION = timedelta(days=36525)


PART = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class ApiModel(BaseModel):
    """Base of everything in a manifest: camelCase outside, snake_case inside, unknown fields ignored on read.

    The API server refuses or prunes unknown fields; a newer CRD must not stop an older process.
    """

    model_config = ConfigDict(**PART, frozen=True)

    def dump(self) -> dict[str, Any]:
        """As JSON of the Kubernetes API: by alias, without fields that are unset or null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Part:
    """Base of what objects hold by the thousand, as dataclasses with slots: a tenth of the memory of an ApiModel."""

    __slots__ = ()

    def dump(self) -> dict[str, Any]:
        """As JSON of the Kubernetes API: by alias, without fields that are unset or null."""
        kind: type = type(self)
        dumped: dict[str, Any] = _adapter(kind).dump_python(self, mode="json", by_alias=True, exclude_none=True)
        return dumped


@functools.cache
def _adapter(part: type) -> TypeAdapter[Any]:
    return TypeAdapter(part)


def _utc(value: datetime) -> datetime:
    if not 1970 < value.year < 9000:
        raise ValueError("a time outside of the years 1971 to 8999")
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def rfc3339(value: datetime) -> str:
    """Format a time as a metav1.Time: in whole seconds, in UTC, ending in ``Z``."""
    return value.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")


Timestamp = Annotated[
    datetime,
    AfterValidator(_utc),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    Field(json_schema_extra={"type": "string", "format": "date-time"}),
]


def parse_duration(value: object) -> timedelta:
    """Parse ``7d`` or ``1h30m`` (d, h, m, s, in that order, whole numbers; a day has 24 hours).

    Raises ValueError with the form expected.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        raise ValueError(
            "expected a duration such as 90s, 45m, 1h30m or 7d: whole numbers of d, h, m, s, in that order"
        )
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = days * 86400 + hours * 3600 + minutes * 60 + seconds
    if total > LONGEST_DURATION.total_seconds():
        raise ValueError("a duration of more than 100 years")
    return timedelta(seconds=total)


def format_duration(value: timedelta) -> str:
    """The inverse of parse_duration, in its shortest form: ``2h``, ``1h30m``, ``0s``."""
    total = int(value.total_seconds())
    hours, rest = divmod(total, 3600)
    minutes, seconds = divmod(rest, 60)
    text = "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n)
    return text or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    Field(json_schema_extra={"type": "string", "pattern": DURATION_PATTERN, "minLength": 2, "maxLength": 32}),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=PART)
class OwnerReference(Part):
    """metav1.OwnerReference, as far as it is read here."""

    kind: str
    name: str
    uid: str
    controller: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, config=PART)
class ObjectMeta(Part):
    """metav1.ObjectMeta, as far as it is read here."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Timestamp = datetime(1970, 1, 1, tzinfo=UTC)
    deletion_timestamp: Timestamp | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    owner_references: list[OwnerReference] = Field(default_factory=list)


class Resource(ApiModel):
    """An object of the API; subclasses add spec and status."""

    metadata: ObjectMeta

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name); the namespace of a cluster-scoped object is empty."""
        return (self.metadata.namespace, self.metadata.name)

    @property
    def display(self) -> str:
        """``namespace/name``, or the name alone where there is no namespace."""
        return f"{self.metadata.namespace}/{self.metadata.name}".lstrip("/")

    @property
    def deleting(self) -> bool:
        """Whether deletion was requested and waits for finalizers."""
        return self.metadata.deletion_timestamp is not None

    @classmethod
    def parse(cls, raw: Any) -> Self:
        """Read an object as the API server returns it. Raises pydantic.ValidationError."""
        return cls.model_validate(raw)


Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Uid = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$")]
Label = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
_PERSON = r"^[^\s\x00-\x1f\x7f]+$"
LONGEST_PERSON = 256
Person = Annotated[str, Field(min_length=1, max_length=LONGEST_PERSON, pattern=_PERSON)]
# Without control characters but tab and line end: others break terminals, and even `kubectl get -o yaml`.
ReasonText = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]


def is_person(text: str) -> bool:
    """Whether a text can stand where an object names a person."""
    return len(text) <= LONGEST_PERSON and re.fullmatch(_PERSON, text) is not None


class LocalRef(ApiModel):
    """A reference by name to an object of the same namespace (or to a cluster-scoped one)."""

    name: Name
