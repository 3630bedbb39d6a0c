"""What can go wrong when a model directory is opened or a model is asked for something it cannot do."""


class ModelError(ValueError):
    """A model directory, option or input does not fit; names the file and field, what was found, what to do.

    Jobs map it to exit code 2, like `storage.errors.InputError` (which this package must not import).
    """


class UnsafePickle(ModelError):
    """A pickle asks for something other than plain containers, numbers and tensors; nothing of it was run."""
