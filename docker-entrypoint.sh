#!/bin/sh
# Runs `catae` in the image: on what is mounted at /data, or on drawn cats where nothing is.
set -eu

if [ -z "${CATAE_SOURCE:-}" ]; then
    if [ -r /data ] && [ -z "$(ls -A /data)" ]; then
        [ "${1:-}" != train ] || echo "catae: nothing is mounted at /data: without --source, cats are drawn" >&2
    else
        export CATAE_SOURCE=/data
    fi
fi
exec catae "$@"
