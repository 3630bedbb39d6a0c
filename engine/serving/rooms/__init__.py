"""What the server keeps loaded, one class for each dataset or model; each is a Ray Serve deployment."""
