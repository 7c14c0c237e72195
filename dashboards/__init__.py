"""Grafana dashboards, Prometheus rules and scrape configuration of the farm, as typed code; `python -m dashboards`
writes them next to it."""
