"""Orchestrate the library with Prefect: flows, and thin tasks that pass paths and small values."""

import logging
import os
import warnings

from catae.system import hardware

hardware.limit_openblas()

# Set before Prefect is imported, and only if the user has not set them.
DEFAULTS = {
    # The first start of the embedded server takes 10 s, half of Prefect's limit, and more on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # Show the library's log in the UI, where Prefect otherwise shows only warnings. A task that is called as a plain
    # function logs outside of a flow run, which is fine.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "catae",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # `catae serve` looks for due runs every 2 s instead of 10 s.
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    # Requests to an unreachable server are retried for 40 s instead of 70 s; at the end of a run there are two in
    # sequence. A server that accepts connections but does not answer gets 20 s per try instead of 60 s.
    "PREFECT_CLIENT_MAX_RETRIES": "4",
    "PREFECT_API_REQUEST_TIMEOUT": "20",
    # Missing heartbeats show that the process of a run was killed: see deploy/zombies.yaml.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # No usage data is sent to Prefect, and its UI shows no advertisements.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
logging.getLogger("catae").setLevel(logging.INFO)
# Prefect repeats this warning each time it reads its settings; `flows.server` creates the folder, or reports the error
# once.
warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")
# Prefect silences pydantic's warning with `catch_warnings`, which fails while another thread does the same.
warnings.filterwarnings("ignore", "The 'alias' attribute with value .* was provided to the `Field")
