"""The errors that a user can act on: `main` prints them as one sentence and exits with status 2."""


class TadjaxError(Exception):
    """Something the user gave is wrong; the message says what, where, and what would be right."""


class ConfigError(TadjaxError):
    """A field of the config: misspelt, of a wrong type, out of range, or at odds with another."""


class DataError(TadjaxError):
    """An annotation, a video, a feature file or a results file."""


class WeightsError(TadjaxError):
    """A checkpoint or pre-trained weights: missing, damaged, or of another geometry."""


class DiskError(TadjaxError):
    """A disk that is full, read-only or gone: what cannot be written."""


def first_line(error: BaseException) -> str:
    """What to quote of another library's error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
