"""The compression workbook: three published systems for compressing a network under a budget."""


def __getattr__(name: str):
    # not at once: importing lib.paths, say, should not cost PyTorch's start, nor reading a file the
    # trainer's
    if name == "compress":
        from lib.compression import compress

        return compress
    if name == "load":
        from lib.archive.loading import load

        return load
    raise AttributeError(f"module 'lib' has no attribute {name!r}")
