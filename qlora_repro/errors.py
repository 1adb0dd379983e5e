"""The errors a user meets, each one sentence: what is wrong, the value, what would be right.

QloraError
├── ConfigError      the run as written cannot be run; nothing was loaded
├── DataError        rows, columns, files of text
├── ModelError       a checkpoint, a tokenizer, a file that is not what it should be
├── StoreError       a results folder that cannot be read or written
│   ├── Busy         another process works on the same run
│   └── Superseded   it took the run over, while this one stood still
└── RunError         a run that started and must stop: NaN loss, a manifest that contradicts
    └── OutOfMemory
"""


class QloraError(Exception):
    """Base of every error that is shown to the user as one sentence, without a traceback."""


class ConfigError(QloraError):
    """The configuration is wrong; raised before anything is loaded."""


class DataError(QloraError):
    """The data cannot be used as asked."""


class ModelError(QloraError):
    """The model or its tokenizer cannot be loaded as asked."""


class StoreError(QloraError):
    """The results folder cannot be read or written."""


class Busy(StoreError):
    """Another process is working on the same run."""


class Superseded(StoreError):
    """This process stood still for so long that another one took its run over."""


class RunError(QloraError):
    """A run started and had to stop."""


class OutOfMemory(RunError):
    """A run had too little memory, of a GPU or of the machine."""


OUT_OF_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library says that a GPU or the machine is out of memory.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    by_name = type(error).__name__ in ("OutOfMemoryError", "MemoryError")  # torch's and Python's
    return by_name or any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)
