"""The batch/v1 Job of an approval. Pure."""

from typing import Any

from vaultbrix.runtime.templates import render_object


def ddl_job(**values: Any) -> dict[str, Any]:
    """The batch/v1 Job of an approval; values as the template names them."""
    return render_object("ddl/job/job.yaml.j2", **values)
