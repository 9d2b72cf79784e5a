"""Namespace, of Kubernetes itself: its labels decide on which servers its Tenants may be."""

from vaultbrix.api.meta import Resource


class Namespace(Resource):
    """A namespace, as far as it is read here."""
