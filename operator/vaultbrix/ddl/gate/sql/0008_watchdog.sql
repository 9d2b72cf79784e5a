-- The agent's watchdog sees how much room temporary files take, and keeps its own looks out of the log.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_tmpdir() TO vaultbrix_agent;
GRANT SET ON PARAMETER log_duration TO vaultbrix_agent;
