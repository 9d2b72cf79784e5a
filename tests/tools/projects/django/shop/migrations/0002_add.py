"""A note, who referred the customer, and no negative totals.

Django writes every foreign key as an ALTER, that of a new table too.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_create")]
    operations = [
        migrations.AddField("Order", "note", models.TextField(null=True)),
        migrations.AddField(
            "Order", "referrer", models.ForeignKey("shop.Customer", models.PROTECT, null=True, related_name="+")
        ),
        migrations.AddConstraint(
            "Order", models.CheckConstraint(condition=models.Q(total__gte=0), name="orders_total")
        ),
    ]
