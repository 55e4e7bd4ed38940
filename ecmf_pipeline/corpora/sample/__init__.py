"""The embedded sample corpus: small and synthetic, rendered from one photograph and one speech synthesiser."""
