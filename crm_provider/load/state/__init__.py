"""What a load keeps: the checkpoint between tries, fingerprints between loads, tables while it runs."""
