"""The audit record: a line of PostgreSQL's log as a record, a row and a sealed leaf; asked, proven, kept, erased."""
