"""PostgresServers: reach them, install the gate, see how their agents do."""
