// Customers and their orders.
exports.up = (knex) =>
  knex.schema
    .createTable("customer", (t) => {
      t.bigIncrements("id");
      t.text("email").notNullable().unique();
    })
    .createTable("orders", (t) => {
      t.bigIncrements("id");
      t.bigInteger("customer_id").notNullable().references("customer.id").index();
      t.enu("status", ["new", "paid"], { useNative: true, enumName: "order_status" }).notNullable().defaultTo("new");
      t.decimal("total", 12, 2).notNullable();
      t.text("legacy");
    })
    .createTable("obsolete", (t) => t.bigInteger("id").primary());
exports.down = () => {};
