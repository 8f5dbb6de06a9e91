#!/bin/sh
# The image's first command: `catae`, on what is mounted at /data, or on drawn cats where nothing is.
set -eu

if [ -z "${CATAE_SOURCE:-}" ]; then
    if [ -r /data ] && [ -z "$(ls -A /data)" ]; then
        [ "${1:-}" != train ] || echo "catae: nothing is mounted at /data: without --source, cats are drawn" >&2
    else
        export CATAE_SOURCE=/data
    fi
fi
[ -e "$PREFECT_HOME" ] || cp -R /opt/catae/prefect "$PREFECT_HOME"
case ${1:-} in
    prefect | tensorboard) exec "$@" ;; # the runs of Prefect's workers, and what compose.yaml has beside catae
    *) exec catae "$@" ;;
esac
