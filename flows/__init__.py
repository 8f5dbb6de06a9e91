"""The orchestration: thin tasks that call the library with paths and small values, and the flow of them."""

import logging
import os

from catae import machine

machine.limit_openblas()

# Before Prefect is imported, and only where the user hasn't decided. A first start of the embedded server takes
# 10 s of the default limit of 20 s, and more on a busy machine; the library's log is to be seen in the UI, where
# Prefect shows of other loggers only warnings unless they have a level of their own; and a task that is called as
# a plain function logs outside of any flow run, which is no mistake.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "catae")
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
logging.getLogger("catae").setLevel(logging.INFO)
