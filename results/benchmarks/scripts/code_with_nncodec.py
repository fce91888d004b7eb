"""What nncodec, the coder of ISO/IEC 15938-17, makes of exported codes: a table of sizes.

    python results/benchmarks/scripts/code_with_nncodec.py CODES.npz [CODES.npz …] SIZES.csv

Runs in an environment of its own, ``pip install "numpy<2" nncodec``, and needs nothing of this
package. The codes that ``measure_coders.py`` wrote are given as int32 tensors, which nncodec codes
without loss by DeepCABAC: no quantizer, no dependent quantization, context parameters optimized. A layer is a matrix of its first dimension by the others, in rows (blocks and the layer's
own shape gave more bytes wherever they were tried); the smaller of the streams with and without the
skipping of zero rows counts. Each is decoded again and compared.
"""

import csv
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np


def stream_bytes(codes: dict[str, np.ndarray]) -> int:
    """Bytes of nncodec's smaller stream for all layers. Raises ``ValueError`` if it lost any."""
    from nncodec import nnc

    matrices = {name: c.reshape(len(c), -1) for name, c in codes.items()}
    sizes = []
    for skip in (False, True):
        stream = nnc.compress(
            matrices,
            bitstream_path=os.devnull,
            use_dq=False,
            row_skipping=skip,
            return_bitstream=True,
        )
        read = nnc.decompress(stream)
        if not all(np.array_equal(read[name], c) for name, c in matrices.items()):
            raise ValueError(
                f"nncodec did not return the codes it was given, row_skipping = {skip}"
            )
        sizes.append(len(stream))
    return min(sizes)


def main(*arguments: str) -> None:
    *files, table = map(Path, arguments)
    rows = []
    for file in files:
        with np.load(file, allow_pickle=False) as parts:
            codes = {k.removesuffix("|codes"): parts[k] for k in parts if k.endswith("|codes")}
            levels = sum(parts[k].size for k in parts if k.endswith("|levels"))
        rows.append((file.stem, stream_bytes(codes), 4 * levels, version("nncodec")))
    with table.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("network", "stream_bytes", "codebook_bytes", "nncodec"))
        writer.writerows(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
