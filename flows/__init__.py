"""The orchestration: thin tasks that call the library with paths and small values, and the flow of them."""

import logging
import os
import warnings

from catae.system import hardware

hardware.limit_openblas()

# Before Prefect is imported, and only where the user hasn't decided.
DEFAULTS = {
    # A first start of the embedded server takes 10 s of the usual limit of 20 s, and more on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The library's log is to be seen in the UI, where Prefect shows of other loggers only warnings unless they have a
    # level of their own. A task that is called as a plain function logs outside of any flow run: that is no mistake.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "catae",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # `catae serve` looks for runs every 2 s and not every 10 s, so that whoever asks for one needn't wait for it.
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    # A message to a server that is gone is tried for 40 s, and not for 70 s: at a run's end there are two, one after
    # the other. One that no longer answers, with its port open, has 20 s for each try, and not a minute.
    "PREFECT_CLIENT_MAX_RETRIES": "4",
    "PREFECT_API_REQUEST_TIMEOUT": "20",
    # A run whose process was killed is known by its silence: see deploy/zombies.yaml.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Nothing is told to Prefect's makers, and nothing of theirs is advertised.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
logging.getLogger("catae").setLevel(logging.INFO)
# Prefect says so again and again, each time it reads its settings; `flows.server` makes the folder, or says once why
# it can't.
warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")
