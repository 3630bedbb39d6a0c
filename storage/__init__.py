"""What is on disk and how it is committed. Knows no model and no Ray."""
