"""Names of objects for the shell's completion.

It must neither wait long nor say anything: what goes wrong completes nothing.
"""

import typer

# A person presses the key again sooner than that.
PATIENCE_SECONDS = 3.0


def tenants(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of Tenants in the namespace of the command."""
    from vaultbrix.api.tenant import Tenant  # noqa: PLC0415

    return _names(Tenant, ctx, incomplete)


def approvals(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of DDLApprovals in the namespace of the command."""
    from vaultbrix.api.ddlapproval import DDLApproval  # noqa: PLC0415

    return _names(DDLApproval, ctx, incomplete)


def api_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of APIKeys in the namespace of the command."""
    from vaultbrix.api.apikey import APIKey  # noqa: PLC0415

    return _names(APIKey, ctx, incomplete)


def _names(model: type, ctx: typer.Context, incomplete: str) -> list[str]:
    import asyncio  # noqa: PLC0415
    import logging  # noqa: PLC0415

    from vaultbrix.kube.client import Kube, NotFound  # noqa: PLC0415
    from vaultbrix.kube.configuration import default_namespace  # noqa: PLC0415
    from vaultbrix.kube.resources import resource_type  # noqa: PLC0415
    from vaultbrix.runtime.errors import Expected  # noqa: PLC0415

    context = str(ctx.params.get("context") or "")

    async def ask() -> list[str]:
        namespace = str(ctx.params.get("namespace") or "") or default_namespace(context)
        kube = Kube("vaultbrix-cli", context=context)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                items = (await kube.list(resource_type(model), namespace))["items"]
        finally:
            await kube.close()
        return [item["metadata"]["name"] for item in items]

    logging.getLogger("kubernetes").setLevel(logging.CRITICAL)
    try:
        names = asyncio.run(ask())
    except (Expected, NotFound, TimeoutError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))
