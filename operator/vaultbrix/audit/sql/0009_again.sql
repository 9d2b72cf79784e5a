-- Lines that came before: a log file may be cut, put back or copied, and is read again. Of given lines of sessions, those
-- that are stored, with a hash of their time and text (NULL once it is erased), so that the shipper, which may not read records,
-- can tell the same line from another one in its place.
CREATE FUNCTION audit.stored_lines(p_server text, p_sessions text[], p_lines bigint[])
RETURNS TABLE(session_id text, line_num bigint, content bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.id, s.line, r.content
    FROM unnest(p_sessions, p_lines) s(id, line)
   CROSS JOIN LATERAL (
    SELECT CASE WHEN r.redaction IS NULL THEN
             sha256(convert_to((extract(epoch FROM r.at) * 1000000)::bigint || E'\n' || coalesce(r.statement, '')
                               || E'\n' || coalesce(r.message, ''), 'UTF8')) END AS content
      FROM audit.record r
     WHERE r.server = p_server AND r.session_id = s.id AND r.line_num = s.line
       AND r.at >= to_timestamp(('x' || lpad(left(split_part(s.id, '.', 1), 16), 16, '0'))::bit(64)::bigint)
                   - interval '1 day'
     LIMIT 1) r
   WHERE s.id ~ '^[0-9a-f]{1,12}\.[0-9a-f]{1,8}$'
$$;
REVOKE ALL ON FUNCTION audit.stored_lines(text, text[], bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.stored_lines(text, text[], bigint[]) TO audit_append;
