#!/bin/sh
# Runs one short job after another as the node NODE_NAME, so that a watcher has something to see.
set -u

# A shell waits for a foreground command before it runs a trap: so all commands run in the background.
run() {
    "$@" &
    running=$!
    wait "$running"
}

stop() {
    trap - TERM INT
    kill -TERM "$running" 2>/dev/null
    wait "$running"
    exit 0
}

running=
trap stop TERM INT

while :; do
    # shellcheck disable=SC2016  # $step is the inner shell's
    run streamer node "$NODE_NAME" --job "job-$(date +%Y%m%d-%H%M%S)" -- \
        sh -c 'for step in 1 2 3 4 5; do echo "{\"status\": \"running-operation\", \"step\": $step}"; sleep 2; done'
    # Also the pause between two tries where the job could not even start.
    run sleep 3
done
