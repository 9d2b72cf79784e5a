# A note, who referred the customer, and no negative totals.
class Add < ActiveRecord::Migration[6.1]
  def up
    add_column :orders, :note, :text
    add_reference :orders, :referrer, foreign_key: { to_table: :customer }
    add_check_constraint :orders, "total >= 0", name: "orders_total"
  end
end
