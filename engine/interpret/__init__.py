"""Reading what a sparse autoencoder has learnt: feature passes, tables, and the page that shows them."""
