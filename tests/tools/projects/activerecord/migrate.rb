# ActiveRecord's migrations without the rest of Rails: `rails db:migrate`. With a version it prints what that one sends.
require "active_record"

ActiveRecord::Base.establish_connection(adapter: "postgresql")
connection = ActiveRecord::Base.connection
context = ActiveRecord::MigrationContext.new("db/migrate", ActiveRecord::SchemaMigration)
if ARGV.empty?
  context.migrate
else
  connection.define_singleton_method(:execute) { |statement, *| puts "#{statement};" }
  ActiveRecord::Migration.verbose = false
  migration = context.migrations.find { |found| found.version == ARGV[0].to_i }
  migration.send(:migration).exec_migration(connection, :up)
end
