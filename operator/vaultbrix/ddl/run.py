"""What one run of an approval needs outside: pass and one-time login in the database, Secret and Job in Kubernetes."""

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from vaultbrix.api.conditions import ConditionType, Reason, is_true
from vaultbrix.api.ddlapproval import DDLApproval, Execution, ExecutionError, Progress
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl import activity
from vaultbrix.ddl.decisions import RunState, login_name, rehearsal_login, run_name
from vaultbrix.ddl.gate import logins, passes
from vaultbrix.ddl.job.manifest import ddl_job
from vaultbrix.ddl.plan import Plan
from vaultbrix.ddl.progress import executed, finished, unfinished, used, used_up
from vaultbrix.ddl.rehearsal import decisions as rehearsal
from vaultbrix.ddl.rehearsal import runner
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Conflict, Kube, NotFound, Object
from vaultbrix.kube.resources import JOBS, PODS, SECRETS
from vaultbrix.kube.rights import with_remedy
from vaultbrix.postgres import scram
from vaultbrix.postgres.admin import Admin
from vaultbrix.postgres.scram import PASSWORD_BYTES
from vaultbrix.runtime.errors import Blocked

# Beyond the statements' own time: pulling the image, connecting, retries after a lost connection.
_JOB_SLACK = timedelta(minutes=10)


@dataclass(frozen=True)
class JobSettings:
    """How Jobs are made. ``namespace`` is theirs and their Secrets' alone: the operator has all Secrets there."""

    namespace: str
    image: str
    pull_policy: str
    pull_secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunContext:
    """What runs are made with: the Kubernetes API, the objects last seen, the servers' admin, and how Jobs look."""

    kube: Kube
    cache: Cache
    admin: Admin
    jobs: JobSettings


async def locate(context: RunContext, approval: DDLApproval) -> "Run | None":
    """The approval with the server that its run is on; of a Tenant that is gone, the one that has the pass."""
    tenant = context.cache.tenant_of(approval)
    if tenant is not None:
        server = context.cache.server_of(tenant)
        return Run(context, approval, tenant, server) if server else None
    for server in context.cache.servers:
        if is_true(server.status.conditions, ConditionType.GATE_INSTALLED):
            async with context.admin.connection(server) as connection:
                if await passes.use_of(connection, approval.metadata.uid) is not None:
                    return Run(context, approval, None, server)
    return None


@dataclass(frozen=True)
class Run:
    """One approval with what it refers to. Pass, login, Secret and Job are found by the approval's uid."""

    context: RunContext
    approval: DDLApproval
    tenant: Tenant | None
    server: PostgresServer

    @property
    def pass_id(self) -> str:
        """The approval's uid: one pass for each approval, whatever is retried."""
        return self.approval.metadata.uid

    @property
    def login(self) -> str:
        """The one-time login of the Job."""
        return login_name(self.approval.metadata.uid)

    @property
    def name(self) -> str:
        """Name of Job and Secret."""
        return run_name(self.approval.metadata.uid)

    @property
    def _session(self) -> bool:
        return self.approval.spec.execution is Execution.SESSION

    async def gather(self, plan: Plan, progress: Progress | None) -> RunState:
        """How the run stands. The Job is read before the ledger, so that no commit slips between the two."""
        job = None if self._session else await self._read_job()
        async with self.context.admin.connection(self.server) as connection:
            seen = (await activity.see(connection, {self.pass_id: self.login}))[self.pass_id]
        state = self._state(plan, seen)
        if self._session or job is None:
            return state
        steps = dict(seen.steps)
        ended = job_ended(job)
        failed = ended and not state.ledger
        begun = unfinished(steps) if failed else None
        return RunState(
            ledger=state.ledger,
            job_exists=True,
            job_failed=failed,
            pass_exists=state.pass_exists,
            executed=state.executed,
            unfinished=begun,
            left=plan.left[begun - 1] if begun else "",
            error=placed(await self._error(job), plan, begun) if failed else None,
            progress=None if ended else progress,
        )

    async def _read_job(self) -> Object | None:
        try:
            with _rights():
                return await self.context.kube.get(JOBS, self.context.jobs.namespace, self.name)
        except NotFound:
            return None

    def _state(self, plan: Plan, seen: activity.Seen) -> RunState:
        decision = self.approval.spec.decision
        nested = decision is not None and decision.allow_nested
        if self._session:
            return RunState(
                ledger=seen.next_stmt > 0
                and used_up(plan, seen.next_stmt, self.approval.status.rehearsal, allow_nested=nested),
                pass_exists=seen.next_stmt > 0,
                executed=used(plan, seen.next_stmt),
            )
        steps = dict(seen.steps)
        return RunState(
            ledger=finished(plan, whole=seen.whole, steps=steps),
            pass_exists=seen.next_stmt > 0,
            executed=executed(plan, whole=seen.whole, steps=steps),
        )

    async def start(self, plan: Plan, expires_at: datetime) -> None:
        """Pass, login, Secret, Job, in this order: each step finds what a crash left of it and goes on."""
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        decision, tenant = self.approval.spec.decision, self.tenant
        assert decision is not None
        assert tenant is not None
        async with self.context.admin.connection(self.server) as connection:
            # Its own rehearsal must not stand in its way.
            await runner.end(connection, rehearsal_login(self.approval.metadata.uid))
            await passes.issue_pass(
                connection,
                pass_id=self.pass_id,
                role=tenant.role,
                login=None if self._session else self.login,
                approved_by=decision.by,
                expires_at=expires_at,
                plan=plan,
                expect_drops=rehearsal.expected_drops(self.approval.status.rehearsal),
                allow_nested=decision.allow_nested,
            )
            if self._session:
                return
            await logins.create_login(
                connection,
                login=self.login,
                role=tenant.role,
                verifier=scram.verifier(password, secrets.token_bytes(scram.SALT_BYTES)),
                valid_until=expires_at + self._deadline(plan),
            )
        secret = await self._secret(password, tenant)
        try:
            with _rights():
                await self.context.kube.apply(SECRETS, secret)
                await self.context.kube.create(JOBS, self.context.jobs.namespace, self._job(plan))
        except Conflict:
            return
        except NotFound:
            namespace = self.context.jobs.namespace
            raise Blocked(
                Reason.NAMESPACE_NOT_FOUND,
                f"namespace {namespace}, where Jobs run, does not exist; create it, or set jobs.createNamespace "
                "of the chart",
            ) from None

    async def close(self, plan: Plan) -> RunState:
        """End pass, login and Secret; how the run stands then. The Job stays as a record for a while."""
        if not self._session:
            with _rights():
                await self.context.kube.delete(SECRETS, self.context.jobs.namespace, self.name)
        async with self.context.admin.connection(self.server) as connection:
            # The login first: a transaction of its session holds the pass.
            await logins.drop_login(connection, self.login, self.tenant.role if self.tenant else None)
            await passes.revoke_pass(connection, self.pass_id)
            seen = await activity.see(connection, {self.pass_id: self.login})
        return self._state(plan, seen[self.pass_id])

    async def withdraw(self, plan: Plan | None) -> int:
        """Close, and take the Job away too; returns how many statements took effect, 0 without a plan."""
        namespace = self.context.jobs.namespace
        with _rights():
            await self.context.kube.delete(JOBS, namespace, self.name)
            await self.context.kube.delete(SECRETS, namespace, self.name)
        async with self.context.admin.connection(self.server) as connection:
            await logins.drop_login(connection, self.login, self.tenant.role if self.tenant else None)
            await passes.revoke_pass(connection, self.pass_id)
            seen = await activity.see(connection, {self.pass_id: self.login})
        return self._state(plan, seen[self.pass_id]).executed if plan is not None else 0

    def _deadline(self, plan: Plan) -> timedelta:
        return len(plan.statements) * self.approval.spec.statement_timeout + _JOB_SLACK

    def _job(self, plan: Plan) -> Object:
        settings = self.context.jobs
        return ddl_job(
            name=self.name,
            namespace=settings.namespace,
            uid=self.approval.metadata.uid,
            approval=self.approval.display,
            deadline_seconds=int(self._deadline(plan).total_seconds()),
            image=settings.image,
            pull_policy=settings.pull_policy,
            pull_secrets=settings.pull_secrets,
            secret=self.name,
        )

    async def _secret(self, password: str, tenant: Tenant) -> Object:
        spec = self.approval.spec
        parameters = {
            "host": self.server.spec.host,
            "port": self.server.spec.port,
            "database": self.server.spec.database,
            "ssl_mode": self.server.spec.tls.mode,
            "user": self.login,
            "role": tenant.role,
            "pass_id": self.pass_id,
            "lock_timeout_ms": int(spec.lock_timeout.total_seconds() * 1000),
            "statement_timeout_ms": int(spec.statement_timeout.total_seconds() * 1000),
        }
        content = {
            "parameters.json": json.dumps(parameters),
            "statements.sql": spec.sql,
            "password": password,
            "ca.crt": await self.context.admin.certificate_authority(self.server),
        }
        return {
            "metadata": {
                "name": self.name,
                "namespace": self.context.jobs.namespace,
                "labels": {
                    "app.kubernetes.io/managed-by": "vaultbrix",
                    "vaultbrix.com/server": self.server.metadata.name,
                },
            },
            "type": "Opaque",
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in content.items()},
        }

    async def _error(self, job: Object) -> ExecutionError:
        """What the Pods said last, or the Job, or that they said nothing."""
        labels = f"batch.kubernetes.io/job-name={self.name}"
        pods = await self.context.kube.list(PODS, self.context.jobs.namespace, labels=labels)
        ended = [
            (terminated.get("finishedAt") or "", terminated.get("message") or "")
            for pod in pods.get("items", [])
            for container in pod.get("status", {}).get("containerStatuses") or []
            if (terminated := container.get("state", {}).get("terminated"))
        ]
        for _, message in sorted(ended, reverse=True):
            if message:
                try:
                    return ExecutionError.model_validate_json(message)
                except ValueError:
                    return ExecutionError(message=message[:1024])
        for condition in job.get("status", {}).get("conditions") or []:
            if condition["type"] == "Failed" and condition.get("message"):
                return ExecutionError(message=f"{condition.get('reason', 'Failed')}: {condition['message']}"[:1024])
        namespace = self.context.jobs.namespace
        return ExecutionError(message=f"the Job ended without saying why; see its Pods' logs in namespace {namespace}")


@contextmanager
def _rights() -> Iterator[None]:
    """Say which value of the chart gives the rights over Jobs and their Secrets, where the operator lacks one."""
    try:
        yield
    except Blocked as error:
        raise with_remedy(error, "jobs.namespace of the chart says where it has that right") from None


def placed(error: ExecutionError, plan: Plan, begun: int | None) -> ExecutionError:
    """What a Job said last, at its place in the text: where it said none, the statement that was begun."""
    at = error.statement or begun or 0
    return plan.placed(error.model_copy(update={"statement": at}))


def job_ended(job: Object) -> bool:
    """Whether a Job is over, well or not."""
    conditions = job.get("status", {}).get("conditions") or []
    return any(c["type"] in ("Failed", "Complete") and c["status"] == "True" for c in conditions)
