"""Models that reason, through real servers."""
