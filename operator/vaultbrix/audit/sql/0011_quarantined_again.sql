-- Lines in quarantine have no number by which they were known when they come again: they are known by their place. Of
-- given places in a file, those of which something is in quarantine, with its hash (NULL once it is erased).
CREATE INDEX quarantine_place ON audit.quarantine(server, file, position);
CREATE FUNCTION audit.quarantined_lines(p_server text, p_file text, p_positions bigint[])
RETURNS TABLE("position" bigint, content bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT q.position, CASE WHEN q.redaction IS NULL THEN sha256(q.line) END
    FROM audit.quarantine q
   WHERE q.server = p_server AND q.file = p_file AND q.position = ANY(p_positions)
$$;
REVOKE ALL ON FUNCTION audit.quarantined_lines(text, text, bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.quarantined_lines(text, text, bigint[]) TO audit_append;
