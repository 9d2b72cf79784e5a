"""What users see: one pydantic model per kind, conditions and reasons, and the CRD generator."""
