"""Manifests: Parquet in and out; CSV, JSONL, YAML and text lists in. See README.md in this folder."""
