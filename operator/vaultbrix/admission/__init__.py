"""Whether the admission policies of the release are in force, and which decisions were written while they were."""
