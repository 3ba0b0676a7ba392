#!/usr/bin/env bash
# Runs the simulation to its end: build, up, follow, export, check, down. `make compose-demo` calls it.
#   docker/demo.sh         the report comes to docker/out/; fails unless every round was committed
#   docker/demo.sh down    removes containers, networks and volumes
# PRIMIA_KEEP=1 leaves everything up afterwards. BASE_IMAGE: see Dockerfile.
set -euo pipefail
cd "$(dirname "$0")"

if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
compose+=(-p primia-demo -f compose.yaml)
result=/var/lib/primia/result
longest_s=1800 # for the whole study; minutes are expected

down() { "${compose[@]}" down --volumes --timeout 5; }
if [ "${1:-}" = down ]; then
  down
  exit
fi

ended() {
  [ -n "${PRIMIA_KEEP:-}" ] || down || true
}
trap ended EXIT

"${compose[@]}" build coordinator hospital-a # the hospitals share one image
"${compose[@]}" up --detach --no-build
coordinator=$("${compose[@]}" ps -q coordinator)

# The log ends when the container does. One that was killed comes back by itself: follow again.
until=$((SECONDS + longest_s)) since=0
while true; do
  state=$(docker inspect --format '{{.State.Status}}' "$coordinator")
  [ "$state" != exited ] || break
  if [ "$SECONDS" -ge "$until" ]; then
    echo "the study did not end within $longest_s s; look at: ${compose[*]} logs" >&2
    exit 1
  fi
  timeout --foreground "$((until - SECONDS))" docker logs --follow --since "$since" "$coordinator" 2>&1 |
    grep --line-buffered --invert-match "\] phase " || true
  since=$(date +%s)
  sleep 1
done
code=$(docker inspect --format '{{.State.ExitCode}}' "$coordinator")
if [ "$code" != 0 ]; then
  "${compose[@]}" logs --tail 20 >&2
  echo "the coordinator ended with exit code $code" >&2
  exit 1
fi

"${compose[@]}" run --rm --no-deps -T -e COLUMNS=110 --entrypoint sh coordinator -c \
  "primia-coordinator export $result && primia-coordinator rounds && primia-coordinator status"
rm -rf out
docker cp "$coordinator:$result" out >/dev/null
if ! grep -q '"state": "finished"' out/result.json; then
  "${compose[@]}" logs --tail 20 >&2
  echo "the study stopped before its last round; see docker/out/report.html" >&2
  exit 1
fi
echo "open docker/out/report.html"
