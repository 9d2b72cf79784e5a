// A pool of node-postgres that resets its sessions, as an application has it; the database by libpq's PG* variables.
const fs = require("fs");
const { Pool } = require("pg");
const Cursor = require("pg-cursor");

const pool = new Pool({ max: 1, ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT) } });

async function borrowed(work) {
  const client = await pool.connect();
  try {
    return await work(client);
  } finally {
    await client.query("DISCARD ALL");
    client.release();
  }
}

async function main() {
  await borrowed(async (client) => {
    await client.query("CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n");
    await client.query("CREATE TEMP TABLE mine(n int)");
    await client.query("SET search_path = pg_catalog");
    await client.query("SET lock_timeout = '1s'");
  });
  const rows = await borrowed(async (client) => {
    const cursor = client.query(new Cursor("SELECT n FROM numbers"));
    let count = 0;
    for (let batch; (batch = await cursor.read(100)).length; ) count += batch.length;
    await cursor.close();
    return count;
  });
  const found = await borrowed((client) =>
    client.query(
      "SELECT current_schema() AS schema, current_setting('lock_timeout') AS lock_timeout," +
        " (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encrypted," +
        " to_regclass('pg_temp.mine') IS NOT NULL AS temporary",
    ),
  );
  const refused = await pool.query("DROP TABLE numbers").catch((error) => error.code);
  console.log(JSON.stringify({ rows, ...found.rows[0], refused }));
}

main().finally(() => pool.end());
