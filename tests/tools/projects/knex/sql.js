// What a migration sends, without a database: for one whose `up` returns a single schema builder.
const knex = require("knex")({ client: "pg" });

console.log(require(`./migrations/${process.argv[2]}`).up(knex).toString());
