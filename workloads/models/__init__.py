"""Model shapes, one TOML file each, and the plain transformer that is built from them."""
