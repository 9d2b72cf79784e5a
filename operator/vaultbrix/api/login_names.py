"""Names of logins that act as a tenant's role beside that role itself. Pure.

No slug ends as they do, which the rules of Tenant see to, so that none of them is another tenant's role.
"""

import functools
import hashlib
import re

# PostgreSQL cuts names at 63 bytes (4.1.1).
_LONGEST_NAME = 63
JOB_LOGIN_PREFIX = "vaultbrix_d_"
_ENDING = re.compile(r"_r_[0-9a-f]{10}\Z")


def login_for(role: str, seed: str) -> str:
    """``tenant_<slug>_r_<id>``, a long slug cut short; the id is made from ``seed``."""
    tail = f"_r_{hashlib.sha256(seed.encode()).hexdigest()[:10]}"
    return f"{role[: _LONGEST_NAME - len(tail)]}{tail}"


def job_login(uid: str) -> str:
    """The one-time login of an approval's Job, from the approval's uid; no tenant's role begins like it."""
    return JOB_LOGIN_PREFIX + uid.replace("-", "")


@functools.lru_cache(maxsize=131_072)
def second_login(role: str) -> str:
    """The login that a tenant's credentials name in turn with its role, so that those of before stay good."""
    return login_for(role, role)


@functools.lru_cache(maxsize=131_072)
def logins_of(role: str) -> tuple[str, ...]:
    """Who may log in where a role may: a tenant's role and its second login, or a rule's own login alone."""
    return (role,) if _ENDING.search(role) else (role, second_login(role))
