#!/bin/sh
# The research lead of the simulation: founds the study, invites the hospitals, serves.
# In reality a person does this once, by hand. The code then goes to the hospital by mail, and its
# fingerprint is read out over the telephone; here both lie in a volume that only the two share.
set -eu

if [ ! -e "$PRIMIA_STATE/identity/coordinator.pem" ]; then
  primia-coordinator init compose-demo
fi
roster=$(primia-coordinator roster --json)
for site in $SITES; do
  case $roster in *"\"site\": \"$site\""*) continue ;; esac # enrolled before a restart
  primia-coordinator invite "$site" --address coordinator:8443 --json >"/post/$site/letter.part"
  mv "/post/$site/letter.part" "/post/$site/letter.json"
done
# In the place of this shell, so that signals reach the daemon.
exec primia-coordinator start --plan /simulation/study.yaml --listen 0.0.0.0:8443
