"""What one run of an approval needs outside: pass and one-time login in the database, Secret and Job in Kubernetes."""

import base64
import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from vaultbrix.adapters import gate
from vaultbrix.adapters.kube import JOBS, PODS, SECRETS, Conflict, NotFound, Object
from vaultbrix.api.ddlapproval import DDLApproval, ExecutionError
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.controllers.admin import admin_connection, certificate_authority
from vaultbrix.controllers.context import Context
from vaultbrix.domain import scram
from vaultbrix.domain.approval import RunState, login_name, login_uid
from vaultbrix.domain.credentials import PASSWORD_BYTES
from vaultbrix.domain.ddlplan import Plan
from vaultbrix.domain.render import ddl_job

# Beyond the statements' own time: pulling the image, connecting, retries after a lost connection.
_JOB_SLACK = timedelta(minutes=10)


def run_name(uid: str) -> str:
    """Name of an approval's Job and Secret."""
    return f"ddl-{uid}"


async def sweep(context: Context, connection: psycopg.AsyncConnection) -> None:
    """End the runs whose approval is gone, however it went: with its namespace, or stripped of its finalizer."""
    alive = {login_name(approval.metadata.uid) for approval in context.approvals}
    for login in await gate.logins(connection):
        if login in alive:
            continue
        try:
            uid = login_uid(login)
        except ValueError:
            continue
        for kind in (JOBS, SECRETS):
            await context.kube.delete(kind, context.settings.namespace, run_name(uid))
        await gate.drop_login(connection, login)
        await gate.revoke_pass(connection, uid)


@dataclass(frozen=True)
class Run:
    """One approval with what it refers to. Pass, login, Secret and Job are found by the approval's uid."""

    context: Context
    approval: DDLApproval
    tenant: Tenant
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

    async def gather(self) -> RunState:
        """How the run stands. The Job is read before the ledger, so that no commit slips between the two."""
        namespace = self.context.settings.namespace
        try:
            job = await self.context.kube.get(JOBS, namespace, self.name)
        except NotFound:
            job = None
        async with admin_connection(self.context.kube, self.server) as connection:
            ledger = await gate.committed(connection, self.pass_id)
        if job is None:
            return RunState(ledger=ledger)
        ended = any(
            c["type"] in ("Failed", "Complete") and c["status"] == "True"
            for c in job.get("status", {}).get("conditions") or []
        )
        error = await self._error() if ended and not ledger else None
        return RunState(ledger=ledger, job_exists=True, job_failed=ended and not ledger, error=error)

    async def start(self, plan: Plan, expires_at: datetime) -> None:
        """Pass, login, Secret, Job, in this order: each step finds what a crash left of it and goes on."""
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        decision = self.approval.spec.decision
        assert decision is not None
        async with admin_connection(self.context.kube, self.server) as connection:
            await gate.issue_pass(
                connection,
                pass_id=self.pass_id,
                role=self.tenant.role,
                login=self.login,
                approved_by=decision.by,
                expires_at=expires_at,
                plan=plan,
            )
            await gate.create_login(
                connection,
                login=self.login,
                role=self.tenant.role,
                verifier=scram.verifier(password, secrets.token_bytes(scram.SALT_BYTES)),
                valid_until=expires_at + self._deadline(),
            )
        await self.context.kube.apply(SECRETS, await self._secret(password))
        try:
            await self.context.kube.create(JOBS, self.context.settings.namespace, self._job())
        except Conflict:
            return

    async def close(self) -> bool:
        """End pass, login and Secret; returns whether the text committed. The Job stays as a record for a while."""
        await self.context.kube.delete(SECRETS, self.context.settings.namespace, self.name)
        async with admin_connection(self.context.kube, self.server) as connection:
            # The login first: a transaction of its session holds the pass.
            await gate.drop_login(connection, self.login, self.tenant.role)
            await gate.revoke_pass(connection, self.pass_id)
            return await gate.committed(connection, self.pass_id)

    async def withdraw(self) -> None:
        """Close, and take the Job away too."""
        await self.context.kube.delete(JOBS, self.context.settings.namespace, self.name)
        await self.close()

    def _deadline(self) -> timedelta:
        return self.approval.spec.statement_timeout + _JOB_SLACK

    def _job(self) -> Object:
        settings = self.context.settings
        return ddl_job(
            name=self.name,
            namespace=settings.namespace,
            uid=self.approval.metadata.uid,
            approval=self.approval.display,
            deadline_seconds=int(self._deadline().total_seconds()),
            image=settings.image,
            pull_policy=settings.pull_policy,
            secret=self.name,
        )

    async def _secret(self, password: str) -> Object:
        spec = self.approval.spec
        parameters = {
            "host": self.server.spec.host,
            "port": self.server.spec.port,
            "database": self.server.spec.database,
            "ssl_mode": self.server.spec.tls.mode,
            "user": self.login,
            "role": self.tenant.role,
            "pass_id": self.pass_id,
            "lock_timeout_ms": int(spec.lock_timeout.total_seconds() * 1000),
            "statement_timeout_ms": int(spec.statement_timeout.total_seconds() * 1000),
        }
        content = {
            "parameters.json": json.dumps(parameters),
            "statements.sql": spec.sql,
            "password": password,
            "ca.crt": await certificate_authority(self.context.kube, self.server),
        }
        return {
            "metadata": {
                "name": self.name,
                "namespace": self.context.settings.namespace,
                "labels": {"app.kubernetes.io/managed-by": "vaultbrix"},
            },
            "type": "Opaque",
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in content.items()},
        }

    async def _error(self) -> ExecutionError:
        """What the Pods said last, or that they said nothing."""
        labels = f"batch.kubernetes.io/job-name={self.name}"
        pods = await self.context.kube.list(PODS, self.context.settings.namespace, labels=labels)
        for pod in reversed(pods.get("items", [])):
            for container in pod.get("status", {}).get("containerStatuses") or []:
                message = container.get("state", {}).get("terminated", {}).get("message")
                if message:
                    try:
                        return ExecutionError.model_validate_json(message)
                    except ValueError:
                        return ExecutionError(message=message[:1024])
        return ExecutionError(message="the Job ended without saying why; see its Pods' logs")
