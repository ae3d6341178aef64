"""Every error phisight raises on purpose, as one tree. Knows nothing of torch or HTTP.

PhisightError
├── InputError              what the caller gave cannot be taken
│   ├── OptionError         an option outside its limits
│   ├── PromptError         tags, roles or messages that do not fit together
│   ├── ImageError          a picture that cannot be opened or cut
│   │   └── UrlError        a URL that may not be opened, or did not give a picture
│   └── BudgetError         a request that does not fit the context or the memory
├── ModelError              a model folder that cannot be used
│   ├── ModelNotFoundError  no such folder, name or cached model
│   ├── ConfigError         a value in its JSON files that we do not implement
│   ├── CheckpointError     weights missing, left over, misshapen or unreadable
│   └── DownloadError       a model that could not be fetched whole and unchanged
│       └── OfflineError    the hub cannot be reached
├── DeviceError             the device or dtype asked for is not there
└── AnswerError             an answer is not in the form asked for

Messages give the value, the limit and the remedy; they never repeat a decoder's own text, which may
hold addresses or paths of the machine.
"""

import warnings


class PhisightError(Exception):
    """Base of all errors phisight raises on purpose."""


class InputError(PhisightError):
    """What the caller gave cannot be taken."""


class OptionError(InputError, ValueError):
    """An option is of the wrong type or outside its limits."""


class PromptError(InputError, ValueError):
    """Image tags, roles or messages do not fit together."""


class ImageError(InputError, ValueError):
    """A picture cannot be opened, or its shape cannot be cut into crops."""


class UrlError(ImageError):
    """A URL may not be opened, or did not give a picture."""


class BudgetError(InputError):
    """A request needs more tokens than the context, or more memory than there is."""


class ModelError(PhisightError):
    """A model folder cannot be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No folder, bundled model or cached model has this name."""


class ConfigError(ModelError, ValueError):
    """A value in a model's JSON files is one that phisight does not implement."""


class CheckpointError(ModelError):
    """Weights are missing, left over, misshapen or unreadable."""


class DownloadError(ModelError):
    """A model could not be fetched whole and unchanged; what has come is kept."""


class OfflineError(DownloadError):
    """The hub cannot be reached from here, or must not be asked."""


class DeviceError(PhisightError):
    """The device or the dtype asked for cannot be used on this machine."""


class AnswerError(PhisightError):
    """The model's answer is not in the form asked for."""


class PhisightWarning(UserWarning):
    """Something was left out that the caller may have wanted (one line, never silence)."""


def tell(text: str) -> None:
    """Warn of what must fail nothing: also where warnings are errors it is a printed line."""
    try:
        warnings.warn(text, PhisightWarning, stacklevel=4)
    except PhisightWarning as told:
        warnings.showwarning(told, PhisightWarning, __file__, 0)
