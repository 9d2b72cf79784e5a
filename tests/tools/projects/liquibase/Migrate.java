import java.io.OutputStreamWriter;
import java.io.Writer;
import java.nio.file.Path;
import java.sql.DriverManager;
import liquibase.Contexts;
import liquibase.Liquibase;
import liquibase.database.DatabaseFactory;
import liquibase.database.jvm.JdbcConnection;
import liquibase.resource.DirectoryResourceAccessor;

/** As applications run it at their start; with an argument it prints what it would send. */
class Migrate {
    public static void main(String[] arguments) throws Exception {
        var connection = DriverManager.getConnection(
                System.getenv("JDBC_URL"), System.getenv("JDBC_USER"), System.getenv("JDBC_PASSWORD"));
        var database = DatabaseFactory.getInstance().findCorrectDatabaseImplementation(new JdbcConnection(connection));
        try (var resources = new DirectoryResourceAccessor(Path.of("."));
                var liquibase = new Liquibase("changelog.sql", resources, database)) {
            if (arguments.length == 0) {
                liquibase.update("");
            } else {
                Writer out = new OutputStreamWriter(System.out);
                liquibase.update(new Contexts(), out);
                out.flush();
            }
        }
    }
}
