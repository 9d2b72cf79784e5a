// Drizzle's migrator, as applications call it at their start.
const fs = require("fs");
const { drizzle } = require("drizzle-orm/node-postgres");
const { migrate } = require("drizzle-orm/node-postgres/migrator");
const { Pool } = require("pg");

// The tenant's schema is there, but `CREATE SCHEMA IF NOT EXISTS` of any is refused to who may not create schemas.
class TenantPool extends Pool {
  query(message, ...rest) {
    return /^create schema if not exists/i.test(message.text) ? Promise.resolve({ rows: [] }) : super.query(message, ...rest);
  }
}

const pool = new TenantPool({ ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT) } });
migrate(drizzle(pool), { migrationsFolder: "drizzle", migrationsSchema: process.env.PGUSER }).finally(() => pool.end());
