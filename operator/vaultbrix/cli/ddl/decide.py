"""``vaultbrix ddl approve`` and ``ddl deny``: what was shown is what is decided."""

import sys
from dataclasses import dataclass

import typer

from vaultbrix.api.ddlapproval import DDLApproval, Verdict
from vaultbrix.cli.client import Failed, User
from vaultbrix.cli.ddl.show import describe
from vaultbrix.cli.output import tell
from vaultbrix.ddl import review
from vaultbrix.ddl.submission import check_person
from vaultbrix.kube.client import Conflict, NotFound, resource_type
from vaultbrix.runtime.usage import Misused, Refused

# What the operator needs to read and to rehearse a text that was just submitted, and some more.
PATIENCE_SECONDS = 15.0
# The operator writes the status meanwhile, which makes a decision on what was read a conflict.
WRITE_ATTEMPTS = 10
LONGEST_MESSAGE = 1024


@dataclass(frozen=True)
class Wish:
    """The command line, as it was written."""

    name: str
    verdict: Verdict
    message: str
    sha256: str
    yes: bool
    sql: bool = False
    allow_nested: bool = False
    despite_rehearsal: bool = False


async def decide(user: User, wish: Wish) -> int:
    """Show, ask, write."""
    prefix = review.check_prefix(wish.sha256) if wish.sha256 else ""
    if len(wish.message) > LONGEST_MESSAGE:
        raise Misused(f"--message: has {len(wish.message)} characters, at most {LONGEST_MESSAGE} are kept; shorten it")
    if wish.verdict is Verdict.DENIED and not wish.message.strip():
        raise Misused("--message: say why, so that whoever asked can do better")
    by = await user.kube.whoami()
    check_person(by)
    approval = await _read(user, await user.find(DDLApproval, wish.name))
    approving = wish.verdict is Verdict.APPROVED
    describe(approval, sql=wish.sql or (approving and any(map(review.cut, approval.status.statements))))
    sha256 = review.check_decision(approval, wish.verdict, by, despite_rehearsal=wish.despite_rehearsal)
    _confirm(wish, prefix, sha256)
    decision = {
        "verdict": str(wish.verdict),
        "by": by,
        "sha256": sha256,
        "message": wish.message,
        "allowNested": wish.allow_nested,
    }
    approval = await _write(user, approval, wish, decision)
    tell(f"DDLApproval {wish.name} in namespace {approval.metadata.namespace} is {str(wish.verdict).lower()} by {by}")
    if approving:
        tell(f"to see how it ends: vaultbrix ddl wait {wish.name} -n {approval.metadata.namespace}")
    return 0


async def _read(user: User, approval: DDLApproval) -> DDLApproval:
    """Once the operator has read and rehearsed it, or after a while without."""

    def ready(found: DDLApproval) -> bool:
        known = found.status.sha256 is not None and review.rehearsed(found) is not review.Rehearsed.WAITING
        return known or not review.waiting(found)

    found, _, _ = await user.follow(approval, ready, PATIENCE_SECONDS)
    return found


def _confirm(wish: Wish, prefix: str, sha256: str) -> None:
    if prefix:
        if not sha256.startswith(prefix):
            raise Refused(
                f"--sha256 {prefix}: the text of {wish.name} has sha256 {sha256}, so it is not the one that you mean; "
                "nothing was decided"
            )
        return
    if wish.yes:
        return
    if not sys.stdin.isatty():
        raise Misused(f"--sha256: there is no terminal to ask on; give --sha256 {sha256[: review.PREFIX]}, or --yes")
    verb = "approve" if wish.verdict is Verdict.APPROVED else "deny"
    try:
        typed = input(f"To {verb} it, type the first {review.PREFIX} characters of its sha256: ")
    except (EOFError, KeyboardInterrupt):
        typer.echo(err=True)
        raise Refused("nothing was decided") from None
    if typed.strip().lower() != sha256[: review.PREFIX]:
        raise Refused("that is not how its sha256 begins; nothing was decided")


async def _write(user: User, approval: DDLApproval, wish: Wish, decision: dict[str, object]) -> DDLApproval:
    shown = review.seen(approval)
    kind = resource_type(DDLApproval)
    namespace, name = approval.metadata.namespace, approval.metadata.name
    for _ in range(WRITE_ATTEMPTS):
        body = {"metadata": {"resourceVersion": approval.metadata.resource_version}, "spec": {"decision": decision}}
        try:
            return DDLApproval.parse(await user.kube.merge(kind, namespace, name, body))
        except (Conflict, NotFound):
            approval, _ = await user.again(approval)
        by = str(decision["by"])
        review.check_decision(approval, wish.verdict, by, despite_rehearsal=wish.despite_rehearsal)
        if review.seen(approval) != shown:
            raise Failed(f"{name} is not as it was shown any more; nothing was decided; look again: "
                         f"vaultbrix ddl show {name} -n {namespace}")  # fmt: skip
    raise Failed(f"{name} changes all the time; try again")
