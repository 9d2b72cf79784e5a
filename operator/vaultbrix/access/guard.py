"""Which approvals of rules count in this process: those that the admission policies checked as they were written."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime

import structlog

from vaultbrix.access.approval import approval, needs_nobody
from vaultbrix.access.terms import terms_sha256
from vaultbrix.admission.guard import Guard
from vaultbrix.admission.policies import Policies
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.cache import TenantKey
from vaultbrix.kube.client import Kube, NotFound
from vaultbrix.kube.resources import resource_type
from vaultbrix.runtime.errors import Expected
from vaultbrix.runtime.queue import pause_after

log = structlog.get_logger(__name__)

Taken = Callable[[AccessRule], bool]

_LONGEST_PAUSE = 5.0


class ApprovalGuard:
    """Answers from memory; what that does not know yet is looked at in ``settle``, or in ``run``.

    ``taken`` says which approvals were taken over by an earlier process: those stay.
    """

    def __init__(self, kube: Kube, policies: Policies, taken: Taken = lambda _: False) -> None:
        self._kube = kube
        self._policies = policies
        self._taken = taken
        self._guard = Guard(policies, AccessRule.crd.kind)
        # By uid; an objection with the hash of the terms that the approval is of.
        self._to_look: dict[str, AccessRule] = {}
        self._objections: dict[str, tuple[str, str]] = {}
        # By uid: at which version it was last read afresh, and under which policies.
        self._asked: dict[str, tuple[str | None, datetime]] = {}
        self._wake = asyncio.Event()
        self._looks: Counter[TenantKey] = Counter()
        self._restarts = 0
        policies.on_change(lambda _: self._start_over())

    def objections(self, rules: Iterable[AccessRule], server: PostgresServer | None) -> dict[str, str]:
        """uid → why the rule's approval does not count, for those that have one; empty while that is looked at.

        ``server`` is None while it is not known; then an approval is checked all the same.
        """
        if not self._policies.installed:
            return {}
        found = ((rule.metadata.uid, self._objection(rule, server)) for rule in rules)
        return {uid: message for uid, message in found if message is not None}

    def forget(self, uid: str) -> None:
        """Forget a rule that is gone."""
        self._guard.forget(uid)
        for known in (self._objections, self._to_look, self._asked):
            known.pop(uid, None)

    def version(self, tenant: TenantKey) -> tuple[int, int]:
        """Another one whenever ``objections`` may be others for the Tenant's rules as they are."""
        return self._restarts, self._looks[tenant]

    async def settle(self, rule: AccessRule, server: PostgresServer | None) -> None:
        """Look now at what is not known of the rule."""
        self.objections([rule], server)
        asked = self._to_look.pop(rule.metadata.uid, None)
        if asked is not None:
            await self._look([asked])

    async def run(self, decide_again: Callable[[TenantKey], None]) -> None:
        """Look whenever something is not known, until cancelled; the Tenants that it was about are decided again."""
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            rules, self._to_look = list(self._to_look.values()), {}
            try:
                await self._look(rules)
            except Exception:
                # Nothing opens by what was not looked at, and everything else goes on.
                log.exception("unexpected error")
                self._to_look = {**{rule.metadata.uid: rule for rule in rules}, **self._to_look}
            for tenant in {rule.tenant_key for rule in rules}:
                decide_again(tenant)
            failures = failures + 1 if self._to_look else 0
            if failures:
                await asyncio.sleep(min(_LONGEST_PAUSE, pause_after(failures, 0.0)))
                self._wake.set()

    def _start_over(self) -> None:
        """Have everything looked at that was not taken over: the policies are others, or in force again."""
        self._objections.clear()
        self._restarts += 1

    def _objection(self, rule: AccessRule, server: PostgresServer | None) -> str | None:
        meta, sha256 = rule.metadata, terms_sha256(rule)
        if approval(rule) is None:
            # One that has ended is not decided on any more.
            if server is not None and not needs_nobody(rule, server) and rule.status.closed_at is None:
                self._note_undecided(rule, sha256)
            return None
        if self._guard.taken(meta, sha256):
            return None
        if self._taken(rule):
            self._guard.take(meta, sha256)
            return None
        of_terms, message = self._objections.get(meta.uid, ("", ""))
        if of_terms == sha256:
            return message
        self._ask(rule)
        return ""

    def _note_undecided(self, rule: AccessRule, sha256: str) -> None:
        """Have it noted, once a version, where the rule was there before the policies were in force as they are."""
        since = self._policies.in_force_since
        if since is None or self._guard.undecided_at(rule.metadata, sha256) >= since:
            return
        if self._asked.get(rule.metadata.uid) != (rule.metadata.resource_version, since):
            self._asked[rule.metadata.uid] = (rule.metadata.resource_version, since)
            self._ask(rule)

    def _ask(self, rule: AccessRule) -> None:
        self._to_look[rule.metadata.uid] = rule
        self._wake.set()

    async def _look(self, rules: Iterable[AccessRule]) -> None:
        await self._policies.look()
        for rule in rules:
            if approval(rule) is not None:
                self._take_or_object(rule)
            elif not await self._see(rule):
                self._asked.pop(rule.metadata.uid, None)
                self._to_look.setdefault(rule.metadata.uid, rule)
            self._looks[rule.tenant_key] += 1

    def _take_or_object(self, rule: AccessRule) -> None:
        sha256 = terms_sha256(rule)
        objection = self._guard.known_objection(rule.metadata, sha256)
        if objection is None:
            self._guard.take(rule.metadata, sha256)
        else:
            self._objections[rule.metadata.uid] = (sha256, objection.message)

    async def _see(self, rule: AccessRule) -> bool:
        """Note when the rule is still undecided; returns False where that could not be found out."""
        asked_at = self._kube.server_now()
        try:
            # Read afresh: the copy that was watched may be older than a decision.
            fresh = AccessRule.parse(await self._kube.get(resource_type(AccessRule), *rule.key))
        except NotFound:
            return True
        except Expected:
            return False
        if fresh.metadata.uid == rule.metadata.uid and approval(fresh) is None:
            self._guard.saw_undecided(fresh.metadata, asked_at, terms_sha256(fresh))
        return True
