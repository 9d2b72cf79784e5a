"""The resources of the Kubernetes API that we use, and the paths of their objects."""

from dataclasses import dataclass
from urllib.parse import quote

from vaultbrix.api.kinds import KINDS
from vaultbrix.api.meta import GROUP, VERSION, Resource
from vaultbrix.api.namespace import Namespace


@dataclass(frozen=True)
class ResourceType:
    """A resource of the API, with what is needed for the path of its objects."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of an object, or of the collection if the name is empty."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        scope = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        tail = "".join(f"/{quote(part, safe='')}" for part in (name, subresource) if part)
        return f"{root}{scope}/{self.plural}{tail}"


SECRETS = ResourceType("v1", "secrets", "Secret")
CONFIG_MAPS = ResourceType("v1", "configmaps", "ConfigMap")
PODS = ResourceType("v1", "pods", "Pod")
NODES = ResourceType("v1", "nodes", "Node", namespaced=False)
NAMESPACES = ResourceType("v1", "namespaces", "Namespace", namespaced=False)
SERVICES = ResourceType("v1", "services", "Service")
EVENTS = ResourceType("v1", "events", "Event")
JOBS = ResourceType("batch/v1", "jobs", "Job")
NETWORK_POLICIES = ResourceType("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
_ADMISSION = "admissionregistration.k8s.io/v1"
ADMISSION_POLICIES = ResourceType(
    _ADMISSION, "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False
)
ADMISSION_BINDINGS = ResourceType(
    _ADMISSION, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", namespaced=False
)
CUSTOM_RESOURCE_DEFINITIONS = ResourceType(
    "apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
SELF_SUBJECT_REVIEWS = ResourceType("authentication.k8s.io/v1", "selfsubjectreviews", "SelfSubjectReview", False)
OURS = {
    model: ResourceType(f"{GROUP}/{VERSION}", model.crd.plural, model.crd.kind, model.crd.namespaced)  # type: ignore[attr-defined]
    for model in KINDS
}


def resource_type(model: type[Resource]) -> ResourceType:
    """Return the resource of one of our kinds, or of Namespace."""
    return NAMESPACES if model is Namespace else OURS[model]
