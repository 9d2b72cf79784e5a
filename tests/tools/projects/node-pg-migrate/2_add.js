// A note, who referred the customer, and no negative totals.
exports.up = (pgm) => {
  pgm.addColumns("orders", { note: "text", referrer_id: { type: "bigint", references: "customer" } });
  pgm.addConstraint("orders", "orders_total", { check: "total >= 0" });
};
