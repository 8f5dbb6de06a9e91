"""Exceptions with a meaning of their own."""


class UserError(Exception):
    """An error the user can fix: wrong input or settings, or a problem with a file, disk or network.

    Its message is one line that states what failed, where, and what to do. The command line prints it without a
    traceback and exits with code 2.
    """


class DecodeError(Exception):
    """A file of a source yields no image. The message gives the reason in a few words."""


class TrialPruned(Exception):
    """A search stops a run early because earlier runs did better. It is not a failure."""


class WorkerLost(Exception):
    """Another training process ended or cannot be reached, so this one cannot continue."""
