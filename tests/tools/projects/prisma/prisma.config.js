// The schema engine as WebAssembly, over node-postgres, which finds the database by libpq's PG* variables.
const fs = require("fs");
const pg = require("pg");
const { PrismaPg } = require("@prisma/adapter-pg");

// The adapter refuses PostgreSQL's type `name`, which the schema engine reads from the catalogue: to it, it is text.
const describe = pg.Query.prototype.handleRowDescription;
pg.Query.prototype.handleRowDescription = function (message) {
  for (const field of message.fields) if (field.dataTypeID === 19) field.dataTypeID = 25;
  return describe.call(this, message);
};

module.exports = {
  experimental: { adapter: true },
  engine: "js",
  schema: "prisma/schema.prisma",
  adapter: async () =>
    new PrismaPg({ ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT) } }, { schema: process.env.PGUSER }),
};
