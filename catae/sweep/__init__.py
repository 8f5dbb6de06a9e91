"""Many runs: the search space, the plan, its state, and the leaderboard."""
