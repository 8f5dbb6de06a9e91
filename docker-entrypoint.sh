#!/bin/sh
# Entry point of the image. Run `catae` on the images mounted at /data, or on synthetic cats if nothing is mounted.
set -eu

if [ -z "${CATAE_SOURCE:-}" ]; then
    if [ -r /data ] && [ -z "$(ls -A /data)" ]; then
        [ "${1:-}" != train ] || echo "catae: nothing is mounted at /data: training on synthetic cats; mount a folder, or set --source" >&2
    else
        export CATAE_SOURCE=/data
    fi
fi
[ -e "$PREFECT_HOME" ] || cp -R /opt/catae/prefect "$PREFECT_HOME"
case ${1:-} in
    prefect | tensorboard) exec "$@" ;; # for Prefect's workers and compose.yaml
    *) exec catae "$@" ;;
esac
