-- Lines that are missing so far: a later line of the session is stored, these are not. Told as gaps once all files are
-- read; kept here so that a shipper which ends in between tells them all the same.
CREATE TABLE audit.missing(
  server text NOT NULL, session_id text NOT NULL, first_line bigint NOT NULL, last_line bigint NOT NULL,
  file text NOT NULL, position bigint NOT NULL,   -- of the line that came instead
  PRIMARY KEY (server, session_id, first_line));

-- The shipper may not read records. After a restart it asks for the last line that is stored of each session before the
-- one it has now; 0: none. A session's id begins with its start, so that only partitions from then on are looked at.
CREATE FUNCTION audit.last_lines(p_server text, p_sessions text[], p_lines bigint[])
RETURNS TABLE(session_id text, line_num bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.id, coalesce((
    SELECT max(r.line_num) FROM audit.record r
     WHERE r.server = p_server AND r.session_id = s.id AND r.line_num < s.line
       AND r.at >= to_timestamp(('x' || lpad(left(split_part(s.id, '.', 1), 16), 16, '0'))::bit(64)::bigint)
                   - interval '1 day'), 0)
    FROM unnest(p_sessions, p_lines) s(id, line)
   WHERE s.id ~ '^[0-9a-f]{1,12}\.[0-9a-f]{1,8}$'
$$;
REVOKE ALL ON FUNCTION audit.last_lines(text, text[], bigint[]) FROM PUBLIC;

GRANT SELECT, INSERT, DELETE ON audit.missing TO audit_append;
GRANT SELECT ON audit.missing TO audit_read;
GRANT EXECUTE ON FUNCTION audit.last_lines(text, text[], bigint[]) TO audit_append;
