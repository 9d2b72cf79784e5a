"""Whether the admission policies are there as installed, since when, and which decisions count by that. Pure.

Who may only edit policies must not be able to hide a change. So nothing rests on what they can write: not on labels,
and not on ``managedFields``, whose times whoever writes an object may set. The API server alone gives an object its
uid, its creation time and the generation of its spec.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from vaultbrix.api.conditions import Reason, State
from vaultbrix.api.meta import ObjectMeta, rfc3339

SETTLING = timedelta(seconds=10)
"""API servers see to a policy some time after they have stored it; times of objects are whole seconds."""

SPREADING = timedelta(seconds=10)
"""After a change people are told only then that they can decide: agents go by looks of their own, a moment later."""

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class InstalledPolicy:
    """A policy of the release, and the hash of its spec as the chart has rendered it."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Version:
    """Which spec of which object: no two specs have the same one."""

    uid: str
    generation: int
    created: datetime


@dataclass(frozen=True)
class Look:
    """What was seen of all policies and bindings: a fault, or their versions."""

    at: datetime
    versions: tuple[Version, ...] = ()
    fault: tuple[Reason, str] | None = None
    unreadable: bool = False


@dataclass(frozen=True)
class Standing:
    """Whether the policies are in force. ``versions`` are those last seen without fault, and ``since`` is theirs.

    ``changed`` is when other versions were seen than before, where any were known before. ``fault`` is there while
    they are not in force; ``unreadable`` says that it is not known whether they are.
    """

    installed: bool = True
    versions: tuple[Version, ...] = ()
    since: datetime | None = None
    changed: datetime | None = None
    fault: tuple[Reason, str] | None = (Reason.WAITING, "not looked at yet")
    unreadable: bool = True

    def in_force(self, now: datetime) -> bool:
        """Whether the API server checks every write at ``now``, as far as is known."""
        return self.fault is None and self.since is not None and self.since <= now


NOT_INSTALLED = Standing(installed=False)


def spec_sha256(spec: Spec) -> str:
    """Hash of a policy's spec as the API server has it: without what it adds by itself, as Helm writes JSON."""
    text = json.dumps(_as_written(spec), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return hashlib.sha256(text.encode()).hexdigest()


# What the API server adds where nothing is said, and what means the same as nothing.
_DEFAULTS = {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}


def _as_written(spec: Spec) -> dict[str, Any]:
    constraints = dict(spec.get("matchConstraints") or {})
    for name, value in _DEFAULTS.items():
        if constraints.get(name) == value:
            del constraints[name]
    rules = [
        {name: value for name, value in rule.items() if (name, value) != ("scope", "*")}
        for rule in constraints.get("resourceRules", [])
    ]
    return {**spec, "matchConstraints": {**constraints, "resourceRules": rules}}


def fault_of(installed: InstalledPolicy, policy: Spec | None, binding: Spec | None) -> tuple[Reason, str] | None:
    """What is wrong with a policy and its binding, given by their specs; None where both are as installed."""
    name = installed.name
    if policy is None:
        return Reason.POLICIES_MISSING, f"ValidatingAdmissionPolicy {name} is not there"
    if spec_sha256(policy) != installed.sha256:
        return Reason.POLICIES_CHANGED, f"ValidatingAdmissionPolicy {name} is not as it was installed"
    if binding is None:
        return Reason.POLICIES_UNBOUND, f"ValidatingAdmissionPolicyBinding {name} is not there"
    if dict(binding) != {"policyName": name, "validationActions": ["Deny"]}:
        return Reason.POLICIES_UNBOUND, f"ValidatingAdmissionPolicyBinding {name} is not as it was installed"
    return None


def version_of(meta: ObjectMeta) -> Version:
    """The version of an object."""
    return Version(meta.uid, meta.generation, meta.creation_timestamp)


def standing_after(before: Standing, look: Look) -> Standing:
    """How things stand after a look.

    Versions that were seen before have not changed meanwhile, however long ago that was. Others are as they are since
    they were created, if their spec never changed, else since nobody knows when: then it counts from this look on.
    """
    if look.fault is not None:
        return replace(before, fault=look.fault, unreadable=look.unreadable)
    if look.versions == before.versions and before.since is not None:
        return replace(before, fault=None, unreadable=False)
    unchanged = all(version.generation == 1 for version in look.versions)
    last = max(version.created for version in look.versions) if unchanged else look.at
    changed = look.at if before.versions else None
    return Standing(versions=look.versions, since=last + SETTLING, changed=changed, fault=None, unreadable=False)


def admission_enforced(standing: Standing, now: datetime) -> State:
    """What AdmissionEnforced says."""
    if not standing.installed:
        text = "admission.enabled is false: nothing checks who asks and who decides; names are what somebody typed"
        return State(None, Reason.NOT_INSTALLED, text)
    if standing.fault is not None:
        reason, message = standing.fault
        if standing.unreadable:
            return State(None, reason, f"whether the admission policies are in force is not known: {message}")
        return State(
            False,
            reason,
            f"{message}: nothing checks who asks and who decides, and decisions made meanwhile do not count; install "
            "the chart's admission policies again (helm upgrade), and see who changed them",
        )
    assert standing.since is not None
    told_from = max(standing.since, standing.changed + SPREADING) if standing.changed else standing.since
    if told_from > now:
        return State(
            None,
            Reason.WAITING,
            f"the admission policies were put in place or changed lately, and count from {rfc3339(told_from)} on",
        )
    return State(True, Reason.ENFORCED, f"the admission policies are in force since {rfc3339(standing.since)}")


@dataclass(frozen=True)
class Objection:
    """Why a decision does not count: for good, or for as long as the policies are not in force."""

    final: bool
    message: str


def objection(standing: Standing, kind: str, written_after: datetime, now: datetime) -> Objection | None:
    """Why a decision does not count that was written after that time, as far as is known; None where it does.

    ``kind`` is that of the object with the decision, such as DDLApproval.
    """
    if not standing.installed:
        return None
    if standing.since is None or not standing.in_force(now):
        why = admission_enforced(standing, now).message
        return Objection(final=False, message=f"the decision is not taken over now: {why}")
    if written_after < standing.since:
        return Objection(
            final=True,
            message=f"nobody knows that the admission policies, in force since {rfc3339(standing.since)}, have checked "
            f"who wrote this decision; ask anew with another {kind}, and decide on that",
        )
    return None


def installed_policies(data: Mapping[str, str]) -> tuple[InstalledPolicy, ...]:
    """The policies that a ConfigMap of the chart names: name → hash. Raises ValueError where it names none."""
    if not data:
        raise ValueError("it names no policy")
    for name, sha256 in data.items():
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{name} has no sha256")
    return tuple(InstalledPolicy(name, sha256) for name, sha256 in sorted(data.items()))


_SHA256 = re.compile("[0-9a-f]{64}")
