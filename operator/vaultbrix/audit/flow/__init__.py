"""Whether the record flows: what the shipper says, what the store holds, and what follows for access."""
