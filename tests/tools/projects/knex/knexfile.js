const fs = require("fs");

// The database by libpq's PG* variables.
module.exports = {
  client: "pg",
  connection: { ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT) } },
};
