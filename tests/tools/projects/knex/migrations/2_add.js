// A note, who referred the customer, and no negative totals.
exports.up = (knex) =>
  knex.schema.alterTable("orders", (t) => {
    t.text("note");
    t.bigInteger("referrer_id").references("customer.id");
    t.check("total >= 0", [], "orders_total");
  });
exports.down = () => {};
