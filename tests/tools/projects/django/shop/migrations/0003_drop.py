"""What nobody uses any more."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_add")]
    operations = [
        migrations.RemoveField("Order", "legacy"),
        migrations.DeleteModel("Obsolete"),
    ]
