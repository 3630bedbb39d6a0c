"""What can go wrong with what is on disk, in the words of the person who can act on it."""


class InputError(ValueError):
    """Bad input or usage. Names the file, the field, what was found, what was expected and what to do.

    Jobs print it once on stderr and exit with 2; nothing has been written when it is raised.
    """


class LineageMismatch(InputError):
    """An output directory holds a dataset made from other inputs or options than those asked for now."""


class DamagedDataset(RuntimeError):
    """An object of a committed dataset is missing or does not hold the bytes that were committed."""


class StoreUnavailable(OSError):
    """An object store that kept failing in a way that usually passes. Running the job again resumes it."""
