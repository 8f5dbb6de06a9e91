"""The errors that have a meaning of their own: above all the one that is the user's to mend."""


class UserError(Exception):
    """Something that the user can mend: bad input, settings, files, disks or networks.

    Its text is one line that says what is wrong, where, and what to do about it. The command line prints that
    line and exits with 2, without a traceback.
    """


class DecodeError(Exception):
    """Why a file of a source gives no picture, in a few words: the file's fault, not the job's."""


class TrialPruned(Exception):
    """Why a run of a search is ended before its time: others, earlier, were better. It is nobody's fault."""


class WorkerLost(Exception):
    """Another of the processes that train together has ended, or can't be reached: there is no going on without it."""
