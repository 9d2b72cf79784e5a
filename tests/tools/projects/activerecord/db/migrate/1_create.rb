# Customers and their orders.
class Create < ActiveRecord::Migration[6.1]
  def up
    execute "CREATE TYPE order_status AS ENUM ('new', 'paid')"
    create_table(:customer) { |t| t.text :email, null: false, index: { unique: true } }
    create_table :orders do |t|
      t.references :customer, null: false, foreign_key: { to_table: :customer }
      t.column :status, :order_status, null: false, default: "new"
      t.decimal :total, precision: 12, scale: 2, null: false
      t.text :legacy
    end
    create_table :obsolete
  end
end
