"""One run, stage by stage, by one process or by several."""
