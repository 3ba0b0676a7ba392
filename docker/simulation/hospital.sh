#!/bin/sh
# A hospital of the simulation: draws its films, enrols with the code in its post, takes part.
# In reality the films are there, and somebody types the code and the fingerprint heard by telephone.
set -eu

letter() { python -c 'import json, sys; print(json.load(open("/post/letter.json"))[sys.argv[1]])' "$1"; }

films=/var/lib/primia/films.npz
if [ ! -e "$films" ]; then
  python /simulation/films.py "$SITE" "$SITE_INDEX" "$films"
fi
if [ ! -e "$PRIMIA_STATE/identity/site.pem" ]; then
  until [ -e /post/letter.json ]; do sleep 1; done
  primia-worker enrol "$(letter code)" --fingerprint "$(letter fingerprint)"
fi
# In the place of this shell, so that signals reach the daemon.
exec primia-worker run --config /simulation/site.yaml
