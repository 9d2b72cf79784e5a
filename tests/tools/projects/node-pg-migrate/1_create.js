// Customers and their orders.
exports.up = (pgm) => {
  pgm.createType("order_status", ["new", "paid"]);
  pgm.createTable("customer", {
    id: { type: "bigint", primaryKey: true, sequenceGenerated: { precedence: "ALWAYS" } },
    email: { type: "text", notNull: true, unique: true },
  });
  pgm.createTable("orders", {
    id: { type: "bigint", primaryKey: true, sequenceGenerated: { precedence: "ALWAYS" } },
    customer_id: { type: "bigint", notNull: true, references: "customer" },
    status: { type: "order_status", notNull: true, default: "new" },
    total: { type: "numeric(12, 2)", notNull: true },
    legacy: "text",
  });
  pgm.createIndex("orders", "customer_id");
  pgm.createTable("obsolete", { id: { type: "bigint", primaryKey: true } });
};
