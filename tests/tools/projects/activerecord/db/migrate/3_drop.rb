# What nobody uses any more.
class Drop < ActiveRecord::Migration[6.1]
  def up
    remove_column :orders, :legacy
    drop_table :obsolete
  end
end
