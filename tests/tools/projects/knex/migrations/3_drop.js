// What nobody uses any more.
exports.up = (knex) => knex.schema.alterTable("orders", (t) => t.dropColumn("legacy")).dropTable("obsolete");
exports.down = () => {};
