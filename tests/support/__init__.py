"""What several test modules share: tiny pipelines on disk, and how runs are checked."""
