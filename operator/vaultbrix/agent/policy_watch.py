"""Has the agent notice early when the admission policies change, so that what waits meanwhile can be decided on."""

import asyncio

import structlog

from vaultbrix.admission.policies import Policies
from vaultbrix.agent.watched import Watched
from vaultbrix.api.postgresserver import AccessApproval

log = structlog.get_logger(__name__)

LOOK_SECONDS = 30.0
# While they are not in force: people decide as soon as the operator says that they are again.
LOOK_SOON_SECONDS = 2.0


class PolicyWatch:
    """Looks now and then, and when the operator says something else of them; a decision has them looked at besides."""

    def __init__(self, policies: Policies, watched: Watched) -> None:
        self._policies = policies
        self._watched = watched

    async def run(self) -> None:
        """Look until cancelled, where the server wants approvals and the release has policies."""
        while self._policies.installed:
            server = self._watched.server
            required = server is not None and server.spec.access_approval is AccessApproval.REQUIRED
            if required:
                await self._look()
            soon = required and not self._policies.state().status
            try:
                async with asyncio.timeout(LOOK_SOON_SECONDS if soon else LOOK_SECONDS):
                    await self._watched.server_told.wait()
            except TimeoutError:
                pass
            self._watched.server_told.clear()

    async def _look(self) -> None:
        try:
            await self._policies.look()
        except Exception:
            # The agent has other work than this, and opens nothing by policies that it has not seen.
            log.exception("unexpected error")
