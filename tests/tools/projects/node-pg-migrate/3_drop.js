// What nobody uses any more.
exports.up = (pgm) => {
  pgm.dropColumns("orders", "legacy");
  pgm.dropTable("obsolete");
};
