"""Metrics, traces, lineage, assets and links."""
