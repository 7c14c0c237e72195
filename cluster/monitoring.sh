#!/usr/bin/env bash
# Prometheus, and Grafana where it is installed, against the Ray cluster whose head is this machine. Ctrl-C ends both.
# PROMETHEUS_PORT (9090), GRAFANA_PORT (3000), MONITORING_DATA (.monitoring), both on 127.0.0.1.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
port=${PROMETHEUS_PORT:-9090}
data=${MONITORING_DATA:-$here/.monitoring}
ray=${RAY_TMPDIR:-${TMPDIR:-/tmp}}/ray # where `ray start` of the same shell keeps its files
found=$ray/prom_metrics_service_discovery.json

if ! command -v prometheus >/dev/null; then
  echo "prometheus is not installed: apt-get install prometheus, or https://prometheus.io/download" >&2
  exit 2
fi
[ -e "$found" ] || echo "no Ray with a dashboard runs here yet (ray start --head); Prometheus looks for it every 10 s" >&2
mkdir -p "$data"
cp "$here/dashboards/prometheus/alerts.yml" "$data/"
sed "s|/tmp/ray/|$ray/|" "$here/dashboards/prometheus/prometheus.yml" >"$data/prometheus.yml"
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

prometheus --config.file="$data/prometheus.yml" --storage.tsdb.path="$data/prometheus" \
  --web.listen-address="127.0.0.1:$port" --log.level=warn &
echo "Prometheus: http://127.0.0.1:$port (alerts: /alerts, in Debian's build /classic/alerts)"

grafana=$(command -v grafana || command -v grafana-server || true)
if [ -n "$grafana" ]; then
  home=${GRAFANA_HOME:-/usr/share/grafana}
  serve=()
  [ "$(basename "$grafana")" = grafana ] && serve=(server)
  PROMETHEUS_URL="http://127.0.0.1:$port" DASHBOARDS="$here/dashboards" \
    GF_PATHS_PROVISIONING="$here/dashboards/grafana" GF_PATHS_DATA="$data/grafana" GF_LOG_LEVEL=warn \
    GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT="${GRAFANA_PORT:-3000}" \
    "$grafana" "${serve[@]}" --homepath "$home" &
  echo "Grafana: http://127.0.0.1:${GRAFANA_PORT:-3000}/d/render-farm-farm"
else
  echo "Grafana is not installed: import dashboards/*.json into one, with this Prometheus as its data source"
fi
wait
