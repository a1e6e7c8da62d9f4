"""One room per feature: all that it puts into any table of any compute is in its file."""
