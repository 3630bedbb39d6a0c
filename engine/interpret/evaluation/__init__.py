"""How good a sparse autoencoder is: what it explains, keeps, singles out, beside baselines."""
