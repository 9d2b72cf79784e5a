import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Properties;

/** Sessions of pgjdbc that are reset between two uses, as a pool does it. */
class Pool {
    private static Connection connection;

    interface Work {
        void with(Connection connection) throws SQLException;
    }

    static void borrowed(Work work) throws SQLException {
        work.with(connection);
        connection.setAutoCommit(true);
        execute("DISCARD ALL");
    }

    static void execute(String statement) throws SQLException {
        try (var sent = connection.createStatement()) {
            sent.execute(statement);
        }
    }

    public static void main(String[] arguments) throws SQLException {
        connection = DriverManager.getConnection(
                System.getenv("JDBC_URL"), System.getenv("JDBC_USER"), System.getenv("JDBC_PASSWORD"));
        var rows = new int[1];
        borrowed(session -> {
            execute("CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n");
            execute("CREATE TEMP TABLE mine(n int)");
            execute("SET search_path = pg_catalog");
            execute("SET lock_timeout = '1s'");
        });
        borrowed(session -> {
            session.setAutoCommit(false);
            try (var statement = session.prepareStatement("SELECT n FROM numbers")) {
                statement.setFetchSize(100);
                var found = statement.executeQuery();
                while (found.next()) rows[0]++;
            }
            session.commit();
        });
        borrowed(session -> {
            try (var statement = session.createStatement()) {
                var found = statement.executeQuery("SELECT current_schema(), current_setting('lock_timeout'),"
                        + " (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()),"
                        + " to_regclass('pg_temp.mine') IS NOT NULL");
                found.next();
                System.out.printf("{\"rows\": %d, \"schema\": \"%s\", \"lock_timeout\": \"%s\",", rows[0],
                        found.getString(1), found.getString(2));
                System.out.printf(" \"encrypted\": %b, \"temporary\": %b,", found.getBoolean(3), found.getBoolean(4));
            }
        });
        try {
            execute("DROP TABLE numbers");
        } catch (SQLException error) {
            System.out.printf(" \"refused\": \"%s\"}%n", error.getSQLState());
        }
        connection.close();
    }
}
