"""Renders templates, which lie beside the code that fills them, to text or to a Kubernetes object."""

from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

# Output is configuration and YAML, never HTML; every YAML value goes through ``json``, which quotes it.
_ENVIRONMENT = Environment(  # noqa: S701
    loader=PackageLoader("vaultbrix", "."),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["json"] = _ENVIRONMENT.filters["tojson"]

# The parser of libyaml where PyYAML was built with it: ten times as fast.
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def render(template: str, **values: Any) -> str:
    """The text of a template, named by its path in the package. Raises jinja2.UndefinedError for a missing value."""
    return _ENVIRONMENT.get_template(template).render(**values)


def render_object(template: str, **values: Any) -> dict[str, Any]:
    """The Kubernetes object that a template renders to, as YAML of one document."""
    (document,) = [one for one in yaml.load_all(render(template, **values), Loader=_LOADER) if one]
    return dict(document)
