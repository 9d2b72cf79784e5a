"""What the chart needs once and keeps: passwords and certificates as Secrets, the audit store's schema and logins."""
