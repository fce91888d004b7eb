"""The compression workbook: three published systems for compressing a network under a budget."""


def __getattr__(name: str):
    # not at once: importing lib.paths, say, should not cost PyTorch's start
    if name == "compress":
        from lib.compression import compress

        return compress
    raise AttributeError(f"module 'lib' has no attribute {name!r}")
