"""The layers that enforce open rules: pg_hba.conf, the kernel, open sessions. Each closes by itself."""
