"""Whole days of the store as Parquet files with a signed manifest, which prove themselves without the store."""
