"""What became of approvals, in the audit store: it stays when the objects are deleted."""
