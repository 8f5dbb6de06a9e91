#!/usr/bin/env bash
# Start a Prefect server, a work pool, the deployments, a worker and a run: `make demo`. Stop them: `make demo-stop`.
# All files are in .demo. The server listens on loopback only.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=$(realpath -m "${DEMO:-.demo}")

show() { # print a command, then run it
  printf '\n$ %s\n' "$*"
  "$@" </dev/null
}

background() { # start a background process: background NAME COMMAND...
  printf '\n$ %s &\n' "${*:2}"
  set -m # without job control the process would ignore SIGINT, which stops Prefect's worker
  nohup "${@:2}" >"$demo/$1.log" 2>&1 </dev/null &
  echo $! >"$demo/$1.pid"
  set +m
}

alive() { # test whether a PID is a Prefect process; after a reboot it may belong to another program
  grep -qa prefect "/proc/$1/cmdline" 2>/dev/null
}

stop() { # stop the processes that this script started, the worker first
  for name in worker server; do
    [ -f "$demo/$name.pid" ] || continue
    pid=$(cat "$demo/$name.pid")
    if alive "$pid"; then
      kill "$pid"
      while alive "$pid"; do sleep 0.2; done
      echo "stopped the $name"
    fi
    rm "$demo/$name.pid"
  done
}

start() {
  stop
  mkdir -p "$demo"
  trap 'stop; echo "the demo failed; see the logs in $demo" >&2' ERR
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export PREFECT_HOME="$demo/prefect" PREFECT_API_URL="http://127.0.0.1:$port/api" CATAE_OUTPUT_DIR="$demo/artifacts"
  # Write the UI's files to .demo instead of site-packages. The relative API URL makes it query its own server.
  export PREFECT_UI_STATIC_DIRECTORY="$demo/ui" PREFECT_UI_API_URL=/api
  export PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT=false

  background server prefect server start --port "$port"
  for _ in $(seq 240); do
    python -c "import sys, urllib.request as u; u.urlopen('$PREFECT_API_URL/health')" 2>/dev/null && break
    alive "$(cat "$demo/server.pid")" || { cat "$demo/server.log"; false; }
    sleep 0.5
  done
  show prefect work-pool create local --type process --overwrite
  show prefect --no-prompt deploy --all
  PREFECT_WORKER_QUERY_SECONDS=2 background worker prefect worker start --pool local
  show prefect deployment run catae/train --watch \
    --param 'data={"source": "drawn:300", "image_size": 32}' --param 'training={"max_epochs": 5}'

  cat <<END

Run, report and log:       http://127.0.0.1:$port/v2/runs
Start a run from a form:   http://127.0.0.1:$port/v2/deployments
Start one from a shell:    export PREFECT_API_URL=$PREFECT_API_URL
Files:                     $demo/artifacts/latest/report.html
Stop everything:           make demo-stop
END
}

"${1:-start}"
