"""Run the stages of one run, in one process or in several."""
