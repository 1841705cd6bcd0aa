"""A cache of rows for large folders: Parquet parts and a manifest, safe to delete at any time."""
