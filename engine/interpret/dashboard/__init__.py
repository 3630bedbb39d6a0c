"""A static site about the features of an autoencoder: opens from disk, asks no network."""
