"""Customers and their orders."""

from django.db import migrations, models

ENUM = "CREATE TYPE order_status AS ENUM ('new', 'paid')"


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.RunSQL(ENUM, migrations.RunSQL.noop),
        migrations.CreateModel(
            "Customer",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("email", models.TextField(unique=True)),
            ],
        ),
        migrations.CreateModel(
            "Order",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("total", models.DecimalField(max_digits=12, decimal_places=2)),
                ("legacy", models.TextField(null=True)),
            ],
            options={"db_table": "orders", "indexes": [models.Index(fields=["total"], name="orders_total_index")]},
        ),
        migrations.CreateModel(
            "Obsolete", [("id", models.BigAutoField(primary_key=True))], options={"db_table": "obsolete"}
        ),
    ]
