-- Whoever approved a text that a tenant sends from its own session stands beside it in the record: the gate has PostgreSQL
-- write a line before the text's own, in the same message. It is known as genuine by its first frame, this function's at
-- that RAISE, which is reached only where the message is an approved text, byte for byte. Logins of Jobs need none.
SET ROLE vaultbrix_gate;

CREATE OR REPLACE FUNCTION vaultbrix.use_pass(p_tag text, p_nested boolean, p_schemas name[], p_consume boolean, p_objects text[])
RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE q text := current_query(); h bytea; r record; one_time boolean;
BEGIN
  IF q IS NULL OR current_setting('standard_conforming_strings') <> 'on' THEN RETURN NULL; END IF;
  h := sha256(convert_to(vaultbrix.norm(q), 'UTF8'));
  -- Logins of Jobs and rehearsals have passes of their own and use up nobody else's.
  one_time := EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles j ON j.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
                       WHERE j.rolname = 'vaultbrix_jobs' AND u.rolname = session_user);
  FOR r IN SELECT p.pass_id, p.approved_by, t.from_stmt, t.to_stmt, p.next_stmt,
                  EXISTS (SELECT FROM vaultbrix.rehearsal m WHERE m.pass_id = p.pass_id) AS rehearsal,
                  EXISTS (SELECT FROM unnest(p.gated) x WHERE x >= p.next_stmt AND x < t.from_stmt) AS skips
             FROM vaultbrix.ddl_pass_text t JOIN vaultbrix.ddl_pass p USING (pass_id)
            WHERE t.sha256 = h AND p.revoked_at IS NULL AND p.expires_at > clock_timestamp()
              AND EXISTS (SELECT FROM pg_roles pr WHERE pr.rolname = p.role_name AND pg_has_role(session_user, pr.oid, 'MEMBER'))
              AND (p.login = session_user OR (p.login IS NULL AND NOT one_time))
              AND (p.allow_nested OR NOT p_nested)
              AND (p.lexer_safe OR strpos(q, chr(92)) = 0)   -- standard_conforming_strings=off would re-lex the same bytes
              AND (p.schemas IS NULL OR p.schemas = p_schemas)
              AND (p.expect_drops IS NULL OR p_objects IS NULL OR p_objects <@ p.expect_drops)
            ORDER BY p.expires_at, p.pass_id, t.from_stmt, t.to_stmt
  LOOP
    -- further firings of the same client message are one use (statement_timestamp is set once per message)
    IF EXISTS (SELECT FROM vaultbrix.ddl_pass_use u WHERE u.pass_id = r.pass_id AND u.from_stmt = r.from_stmt AND u.to_stmt = r.to_stmt
                AND u.pid = pg_backend_pid() AND u.message_ts = statement_timestamp()) THEN
      INSERT INTO vaultbrix.ddl_pass_drop(pass_id, object) SELECT r.pass_id, x FROM unnest(p_objects) x;
      RETURN r.pass_id;
    END IF;
    IF r.from_stmt < r.next_stmt OR r.skips THEN CONTINUE; END IF;
    -- A rehearsal is marked before anything happens: a statement that commits halfway must not get that far.
    IF NOT p_consume AND NOT r.rehearsal THEN
      IF NOT one_time THEN RAISE LOG 'APPROVED: %', jsonb_build_object('approval', r.pass_id, 'by', r.approved_by); END IF;
      RETURN r.pass_id;
    END IF;
    UPDATE vaultbrix.ddl_pass p SET next_stmt = r.to_stmt + 1
     WHERE pass_id = r.pass_id AND revoked_at IS NULL AND expires_at > clock_timestamp() AND next_stmt <= r.from_stmt
       AND NOT EXISTS (SELECT FROM unnest(p.gated) x WHERE x >= p.next_stmt AND x < r.from_stmt);
    IF NOT FOUND THEN CONTINUE; END IF;
    INSERT INTO vaultbrix.ddl_pass_use(pass_id, from_stmt, to_stmt, pid, message_ts, session_role, tag, objects)
      VALUES (r.pass_id, r.from_stmt, r.to_stmt, pg_backend_pid(), statement_timestamp(), session_user, p_tag, p_objects);
    IF NOT one_time AND NOT r.rehearsal THEN
      RAISE LOG 'APPROVED: %', jsonb_build_object('approval', r.pass_id, 'by', r.approved_by);
    END IF;
    IF r.rehearsal THEN INSERT INTO vaultbrix.rehearsal_use(pass_id) VALUES (r.pass_id); END IF;
    INSERT INTO vaultbrix.ddl_pass_drop(pass_id, object) SELECT r.pass_id, x FROM unnest(p_objects) x;
    RETURN r.pass_id;
  END LOOP;
  RETURN NULL;
END $$;
RESET ROLE;
