import org.flywaydb.core.Flyway;

/** As applications run it at their start: the library, with its settings from FLYWAY_* variables. */
class Migrate {
    public static void main(String[] arguments) {
        Flyway.configure().envVars().load().migrate();
    }
}
