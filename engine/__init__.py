"""The computation: models, streaming, training, interpretation."""
