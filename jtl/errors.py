"""The errors that a user can cause: each says what was found, where, and how to mend it."""


class JtlError(Exception):
    """Base of every error that jtl raises for a mistake in what it was given."""


class ConfigError(JtlError, ValueError):
    """An option, a freeze spec or an argument does not make sense."""


class DivergedError(ConfigError):
    """The loss or its gradient was not finite for too long."""


class DataError(JtlError):
    """A dataset, an image or a split cannot be used as asked."""


class ChangedDataError(DataError):
    """A dataset is not what it was when the run began."""


class WeightsError(JtlError):
    """A weight file cannot be read, or does not fit the model."""


class CheckpointError(JtlError):
    """A run's folder or a checkpoint in it cannot be used."""


class TakenOverError(CheckpointError):
    """Another process goes on with the run that this one was training."""


class PreemptedError(JtlError):
    """A run was asked to stop, and has saved where it stands."""


class DeviceMemoryError(JtlError, MemoryError):
    """The memory of a device, or of its host, does not hold what was asked for."""
