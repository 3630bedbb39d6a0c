"""One door to an index, its counts, features and conversations: a Ray Serve application and its API."""
