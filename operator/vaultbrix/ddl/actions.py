"""What a person may ask for about the approval of DDL, as data: submit, list, wait, approve, deny.

Each action takes the person's client and the options as the person wrote them, checks the options before anybody is
asked, and returns what came of it. Raises Misused for an option that is wrong whatever the cluster says, Refused for
what the cluster does not hold or allow, Expected when the cluster cannot be asked. Nothing here prints: the command
line turns the answers into text, and another program may turn them into something else.

To submit and to decide take two steps, so that a person sees what is about to happen in between: ``prepare`` and
``submit``, ``show_for_decision`` and ``decide``.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from vaultbrix.api.ddlapproval import ApprovalPhase, DDLApproval, Decision, Verdict
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl import review
from vaultbrix.ddl.plan import Plan
from vaultbrix.ddl.submission import check_person, check_reason, ddl_approval, decode, same_text, understood
from vaultbrix.kube.client import Conflict, NotFound, Object
from vaultbrix.kube.person import Fetched, PersonClient
from vaultbrix.postgres.shell_lines import ShellCredentials
from vaultbrix.runtime.errors import Expected, Transient
from vaultbrix.runtime.usage import Refused, check_name, parse_span

# How often an approval that is waited for is read.
PAUSE_SECONDS = 0.5
# What the operator needs to read and to rehearse a text that was just submitted, and some more.
READ_AND_REHEARSED_SECONDS = 15.0
# The operator writes the status meanwhile, which makes a decision on what was read a conflict.
WRITE_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Who asks for a change of which tenant and why, and how it is to run.

    Texts are as the options of ``vaultbrix ddl submit``. ``session``: the tenant sends the statements itself, instead
    of a Job. Empty ``name`` has one made. ``timeout`` is how long the end will be waited for; it is only checked here.
    """

    tenant: str
    reason: str
    session: bool = False
    valid_for: str = "1h"
    lock_timeout: str = "5s"
    statement_timeout: str = "10m"
    name: str = ""
    timeout: str = "10m"
    dry_run: bool = False


@dataclass(frozen=True)
class Durations:
    """The durations of SubmitOptions."""

    valid_for: timedelta
    lock_timeout: timedelta
    statement_timeout: timedelta
    timeout: timedelta


def check_options(options: SubmitOptions) -> Durations:
    """Check all that can be without the statements; ``prepare`` does so too. Raises Misused."""
    durations = Durations(
        parse_span("--valid-for", options.valid_for),
        parse_span("--lock-timeout", options.lock_timeout),
        parse_span("--statement-timeout", options.statement_timeout),
        parse_span("--timeout", options.timeout),
    )
    check_reason(options.reason)
    if options.name:
        check_name(options.name)
    return durations


@dataclass(frozen=True)
class Prepared:
    """A DDLApproval that may be submitted: what its statements do, what the person should know first, its manifest."""

    plan: Plan
    notes: tuple[str, ...]
    manifest: Object


async def prepare(client: PersonClient, options: SubmitOptions, source: str, content: bytes) -> Prepared:
    """Read statements as the operator will, and make the DDLApproval that asks for them; creates nothing.

    ``source`` is the option that holds them, for messages. Raises Unfit, with the place, for statements that cannot be
    approved.
    """
    durations = check_options(options)
    sql, notes = decode(source, content)
    # What is wrong with the text by itself is told before anybody is asked.
    understood(source, sql)
    tenant = await client.find(Tenant, options.tenant)
    plan = understood(source, sql, tenant.role)
    requested_by = await client.kube.whoami()
    check_person(requested_by)
    manifest = ddl_approval(
        client.namespace,
        options.name,
        options.tenant,
        sql=sql,
        reason=options.reason,
        requested_by=requested_by,
        session=options.session,
        valid_for=durations.valid_for,
        lock_timeout=durations.lock_timeout,
        statement_timeout=durations.statement_timeout,
    )
    return Prepared(plan, (*notes, *await _notes(client, tenant, plan)), manifest)


async def _notes(client: PersonClient, tenant: Tenant, plan: Plan) -> list[str]:
    notes = []
    if not plan.gated:
        notes.append("nothing of it needs an approval: the tenant may run it by itself")
    if tenant.spec.suspended:
        notes.append(f"Tenant {tenant.metadata.name} is suspended, so nothing runs until it is not")
    approvals = await client.find_permitted(DDLApproval, client.namespace)
    if same := same_text(approvals, tenant.metadata.name, plan.sha256):
        notes.append(f"{', '.join(same)} has the same text and is under way; this one would run it once more")
    return notes


async def submit(client: PersonClient, prepared: Prepared, *, dry_run: bool = False) -> Fetched[DDLApproval]:
    """Create the DDLApproval; with ``dry_run`` the API server only checks it. Raises NameTaken."""
    return await client.create(
        DDLApproval, prepared.manifest, why_final="whose text cannot be changed", dry_run=dry_run
    )


@dataclass(frozen=True, kw_only=True)
class ApprovalsOptions:
    """Which approvals to list: of one namespace or ``everywhere``, of one ``tenant`` or all, only undecided ones."""

    everywhere: bool = False
    tenant: str = ""
    pending: bool = False

    def includes(self, approval: DDLApproval) -> bool:
        """Whether the approval is asked for."""
        of_tenant = self.tenant in ("", approval.spec.tenant_ref.name)
        return of_tenant and (not self.pending or review.waiting(approval))


async def list_approvals(client: PersonClient, options: ApprovalsOptions) -> list[Fetched[DDLApproval]]:
    """The approvals that are asked for, the most urgent first."""
    listed = await client.collect(DDLApproval, "" if options.everywhere else client.namespace)
    by_uid = {item.resource.metadata.uid: item for item in listed.items if options.includes(item.resource)}
    return [by_uid[a.metadata.uid] for a in review.by_urgency(item.resource for item in by_uid.values())]


async def next_steps(client: PersonClient, approval: DDLApproval) -> list[str]:
    """What a person can do now, most useful first: commands or sentences."""
    namespace, tenant_name = approval.metadata.namespace, approval.spec.tenant_ref.name
    # The name that it has unless the Tenant gives another, where the Tenant cannot be read.
    credentials = ShellCredentials(namespace, f"{tenant_name}-db")
    if review.sent_by_tenant(approval):
        with contextlib.suppress(Expected, Refused):
            tenant = await client.find(Tenant, tenant_name)
            server, _ = await client.find_server(tenant)
            secret_name = tenant.status.secret_name or tenant.secret_name
            has_ca = server is None or server.ca_secret is not None
            credentials = ShellCredentials(namespace, secret_name, has_ca)
    return review.next_steps(approval, credentials)


@dataclass(frozen=True, kw_only=True)
class WaitOptions:
    """An approval, and how long to wait for its end, or with ``decided`` only for its decision."""

    name: str
    decided: bool = False
    timeout: str = "10m"


@dataclass(frozen=True)
class Waiting:
    """An approval as it is now, and how what is waited for came out; ``outcome`` is None while it has not."""

    approval: Fetched[DDLApproval]
    outcome: ApprovalPhase | None


async def wait(client: PersonClient, options: WaitOptions) -> AsyncIterator[Waiting]:
    """Check the options and find the approval; what is returned is as from ``follow``."""
    timeout = parse_span("--timeout", options.timeout)
    approval = await client.fetch(DDLApproval, options.name)
    return follow(client, approval, timeout, decided=options.decided)


async def follow(
    client: PersonClient, approval: Fetched[DDLApproval], timeout: timedelta, *, decided: bool = False
) -> AsyncIterator[Waiting]:
    """The states of an approval, the given one first and the last one with the outcome.

    Without an outcome after ``timeout``, the last one has none. Raises Missing when the approval is deleted meanwhile,
    Transient when the API server cannot be reached at the end.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout.total_seconds()
    while True:
        outcome = review.settled(approval.resource, decided=decided)
        yield Waiting(approval, outcome)
        if outcome is not None or loop.time() >= end:
            return
        await asyncio.sleep(PAUSE_SECONDS)
        try:
            approval = await client.reread(approval.resource)
        except Transient:
            # A run goes on without the API server, and so does waiting for it.
            if loop.time() >= end:
                raise


@dataclass(frozen=True, kw_only=True)
class DecisionOptions:
    """A person's decision on the approval of that name.

    ``sha256`` names the text by the beginning of its hash; empty, the person has to be asked for it. ``message`` is
    for the record. ``allow_nested``: also let functions and blocks of the text drop and alter. ``despite_rehearsal``:
    also when its rehearsal failed, is not over, or takes along what is somebody else's.
    """

    name: str
    verdict: Verdict
    message: str = ""
    sha256: str = ""
    allow_nested: bool = False
    despite_rehearsal: bool = False


@dataclass(frozen=True)
class ShownApproval:
    """An approval as a person was shown it, and the decision ``by`` them that is about to be written."""

    approval: DDLApproval
    options: DecisionOptions
    by: str

    @property
    def needs_full_text(self) -> bool:
        """Whether its statements in the status are cut short, so that who approves it must see the text itself."""
        return self.options.verdict is Verdict.APPROVED and any(map(review.cut, self.approval.status.statements))

    @property
    def cautions(self) -> list[str]:
        """What the person should know before they decide so."""
        return review.cautions(self.approval, self.options.verdict, allow_nested=self.options.allow_nested)

    def check(self) -> str:
        """The sha256 of the text that is decided on.

        Raises Refused when the decision would not count, or when the options name another text.
        """
        sha256 = review.check_decision(
            self.approval, self.options.verdict, self.by, despite_rehearsal=self.options.despite_rehearsal
        )
        if self.options.sha256:
            prefix = review.check_prefix(self.options.sha256)
            if not sha256.startswith(prefix):
                raise Refused(
                    f"--sha256 {prefix}: the text of {self.options.name} has sha256 {sha256}, so it is not the one "
                    "that you mean; nothing was decided"
                )
        return sha256

    def check_typed(self, typed: str) -> None:
        """Raises Refused unless a person who was asked has typed how the text's sha256 begins."""
        if typed.strip().lower() != self.check()[: review.PREFIX]:
            raise Refused("that is not how its sha256 begins; nothing was decided")


async def show_for_decision(client: PersonClient, options: DecisionOptions) -> ShownApproval:
    """Check the options, and read the approval once the operator has read and rehearsed it, or after a while without.

    Whether the decision may be written is for ``check`` of what is returned, after the person has seen it.
    """
    review.check_options(options.verdict, options.message, options.sha256)
    by = await client.kube.whoami()
    check_person(by)
    approval = await client.find(DDLApproval, options.name)
    state, _ = await client.wait_until(approval, _read_and_rehearsed, READ_AND_REHEARSED_SECONDS)
    return ShownApproval(state.resource, options, by)


def _read_and_rehearsed(approval: DDLApproval) -> bool:
    """Whether the operator knows all of the approval that it will know before a decision."""
    known = approval.status.sha256 is not None and review.rehearsed(approval) is not review.Rehearsed.WAITING
    return known or not review.waiting(approval)


async def decide(client: PersonClient, shown: ShownApproval) -> DDLApproval:
    """Write the decision on exactly what was shown.

    Raises Refused when it would not count, or when the approval has changed since in anything that the decision rests
    on; Missing when it was deleted.
    """
    options, approval = shown.options, shown.approval
    decision = Decision(
        verdict=options.verdict,
        by=shown.by,
        sha256=shown.check(),
        message=options.message,
        allow_nested=options.allow_nested,
    )
    basis = review.seen(approval)
    for _ in range(WRITE_ATTEMPTS):
        version = {"resourceVersion": approval.metadata.resource_version}
        try:
            return await client.merge(approval, {"metadata": version, "spec": {"decision": decision.dump()}})
        except (Conflict, NotFound):
            approval = (await client.reread(approval)).resource
        review.check_decision(approval, options.verdict, shown.by, despite_rehearsal=options.despite_rehearsal)
        if review.seen(approval) != basis:
            raise Refused(
                f"{options.name} is not as it was shown any more; nothing was decided; look again: "
                f"vaultbrix ddl show {options.name} -n {approval.metadata.namespace}"
            )
    raise Refused(f"{options.name} changes all the time; try again")
