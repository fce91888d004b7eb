"""Commands about files of compressed networks: ``inspect | extract | pack | evaluate``.

What they write is there whole or not at all, and nothing is overwritten unless told to.
"""

import argparse
import importlib
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from lib import accounting, archive, atomic, data, networks
from lib.archive import Archive, convert, onnx
from lib.archive.loading import load
from lib.training import predict
from lib.workbook import runs

FORMATS = " or ".join(convert.FORMATS)


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds these commands; ``command(name, function)`` makes one and returns its parser."""

    def writes(parser: argparse.ArgumentParser, option: str, metavar: str, **options) -> None:
        parser.add_argument(option, type=Path, metavar=metavar, **options)
        parser.add_argument("--overwrite", action="store_true", help="what is there already")

    inspecting = command("inspect", inspect)
    inspecting.add_argument("file", type=Path, metavar="FILE")
    writes(inspecting, "--picture", "OUT.png", help="draw it as well")

    extracting = command("extract", extract)
    extracting.add_argument("file", type=Path, metavar="FILE")
    writes(extracting, "--to", "OUT", required=True, help=f"{FORMATS} or .onnx")
    extracting.add_argument(
        "--architecture",
        metavar="MODULE:FUNCTION",
        help="what makes your network, where FILE names none and OUT is .onnx",
    )
    extracting.add_argument(
        "--input-shape",
        type=_sizes,
        metavar="3x32x32",
        help="of one of its inputs; default: of the images that FILE's network reads",
    )

    packing = command("pack", pack)
    packing.add_argument("source", type=Path, metavar="IN", help=f"{FORMATS}, or a run's folder")
    writes(packing, "--to", "OUT.cnet", required=True)
    packing.add_argument("--network", choices=networks.BUILDERS, help="default: what IN says")
    packing.add_argument("--classes", type=int, help="default: what IN says, or 10")
    packing.add_argument("--channels", type=int, help="default: what IN says, or as usual")

    evaluating = command("evaluate", evaluate)
    evaluating.add_argument("file", type=Path, metavar="FILE")
    evaluating.add_argument("--dataset", required=True, help="its name, or a folder of images")


def inspect(options: argparse.Namespace) -> int:
    """What a file's bytes are spent on, layer by layer."""
    found = archive.read(options.file)
    table = archive.parts(options.file.read_bytes())
    if options.picture:
        free(options.picture, options, ending=".png")
        _draw(table, options.file.name, options.picture)
    print(f"{_kind(found)}; provenance {found.provenance.hex()}")
    print(_listing(table).to_string(index=False))
    return 0


def extract(options: argparse.Namespace) -> int:
    """Writes a file's weights as a state dict, or its network as an ONNX file."""
    free(options.to, options)
    found = archive.read(options.file)
    if options.to.suffix == ".onnx":
        shape = options.input_shape
        if options.architecture:
            if shape is None:
                raise ValueError("say --input-shape, of one input of your network: 3x32x32")
            model = load(options.file, into=_made(options.architecture))
        else:
            if not found.network:
                raise ValueError(
                    f"{options.file} names no network: say --architecture MODULE:FUNCTION, what "
                    "makes yours"
                )
            model = load(options.file)
            shape = shape or (found.channels, *networks.INPUT_SHAPES[found.network][1:])
        onnx.export(model, options.to, input_shape=shape)
    else:
        convert.save(found, options.to)
    print(f"{options.to}: {options.to.stat().st_size:,} bytes")
    return 0


def pack(options: argparse.Namespace) -> int:
    """Writes a state dict, or the network of a finished run, as a compressed file."""
    free(options.to, options, ending=archive.SUFFIX)
    if options.source.is_dir():
        run = runs.read(options.source)
        content = run.file(run.state())
    else:
        described = dict(vars(_described(options)))
        content = archive.encode(described.pop("state"), **described)
    atomic.write(options.to, content)
    print(f"{options.to}: {len(content):,} bytes")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """What a file's network gets right on a test split, and what it costs."""
    found = archive.read(options.file)
    model = load(options.file).float()  # which images of a data set are
    dataset = runs.dataset_of(options.dataset, found.network, False, torch.device("cpu"))
    if dataset.classes != found.classes:
        raise ValueError(
            f"{options.file} tells {found.classes} classes apart, {options.dataset} has "
            f"{dataset.classes}"
        )
    shape, macs = "×".join(map(str, dataset.shape)), read_macs(model, dataset, options.file)
    right = int((predict(model, dataset, dataset.test) == dataset.test.labels).sum())
    costs, size = accounting.summary(model), options.file.stat().st_size
    dense = sum(tensor.nbytes for tensor in found.state.values())
    lines = {
        "network": f"{_kind(found)}; images of {shape}",
        "accuracy": f"{right / len(dataset.test):.2%}, {right:,} of {len(dataset.test):,} images "
        f"({data.describe(options.dataset)}, test split)",
        "nominal rate": f"{costs['nominal_rate']:,.1f}×",
        "entropy rate": f"{costs['entropy_rate']:,.1f}×",
        "MACs": f"{macs:,} an image",
        "file": f"{size:,} bytes, of {dense:,} as tensors: {dense / size:,.1f}×",
    }
    for name, said in lines.items():
        print(f"{name:14}{said}")
    return 0


def _sizes(said: str) -> tuple[int, ...]:
    return tuple(int(size) for size in said.replace("×", "x").split("x"))


def _made(said: str) -> nn.Module:
    """The network that a function of the user's own makes: ``package.module:function``."""
    module, _, function = said.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"--architecture {said}: {error}; name a module that can be imported from here and a "
            "function or class of it that takes no arguments, as nets:MyNet"
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module):
        raise ValueError(f"--architecture {said} makes a {type(made).__name__}, no torch.nn.Module")
    return made


def say(line: str) -> None:
    """To the side, so that what is printed can be read by a program."""
    print(line, file=sys.stderr)


def free(path: Path, options: argparse.Namespace, *, ending: str = "") -> None:
    """Refuses a file that cannot be written: another ending, or there already and not to go."""
    if not path.name.endswith(ending):
        raise ValueError(f"{path}: its name must end in {ending}")
    if path.exists() and not options.overwrite:
        raise ValueError(f"{path} is there already: name another file, or say --overwrite")


def read_macs(model: nn.Module, dataset: data.Dataset, name: object) -> int:
    """MACs of an image of the data set. ``ValueError`` that says ``name`` if it reads none."""
    try:
        return accounting.macs(model, dataset.shape)
    except RuntimeError as error:
        shape = "×".join(map(str, dataset.shape))
        raise ValueError(f"{name} reads no images of {shape}: {error}") from error


def _kind(found: Archive) -> str:
    if not found.network:
        return "a network without a name"
    return f"{found.network}, {found.classes} classes, channels of an image: {found.channels}"


def _listing(table: pd.DataFrame) -> pd.DataFrame:
    """The parts as they are read, in bytes, and their sum."""
    from lib.workbook import report  # which no other command waits for

    whole = pd.DataFrame({"name": ["file"], "total": table["total"].sum(), "share": 1.0})
    columns = {
        "name": ("layer", "{}"),
        "shape": ("shape", "{}"),
        **{name: (name, "{:,.0f}") for name in ("weights", "kept", "levels", "bits")},
        **{n: (f"{n}, bytes", "{:,.1f}") for n in ("values", "positions", "codebook", "total")},
        "share": ("share", "{:.1%}"),
    }
    table = pd.concat([table, whole], ignore_index=True)
    return report.columns.shown(table, columns, unknown="", waiting=" ".join(columns))


def _draw(table: pd.DataFrame, name: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    from lib.workbook import plots  # which no other command waits for

    tensors = table["shape"].notna()
    bars = table.set_index("name")[["values", "positions", "codebook"]].fillna(0.0)
    bars["frame"] = table["total"].where(~tensors, 0.0).to_numpy()
    picture = io.BytesIO()
    with plt.style.context(plots.STYLE):
        figure = plots.file_parts(bars, title=f"{name}, {table['total'].sum():,.0f} bytes")
        figure.savefig(picture, format="png", metadata={"Software": None})
    atomic.write(path, picture.getvalue())


def _described(options: argparse.Namespace) -> Archive:
    """The state dict in IN, with the network that it is of, if one is named."""
    found = convert.load(options.source, said=say)
    network = options.network or found.network
    if not network:
        if options.classes or options.channels:
            raise ValueError("--classes and --channels are of a network: name it with --network")
        return found
    usual = networks.INPUT_SHAPES.get(network, (0,))[0]
    classes = options.classes or found.classes or 10
    channels = options.channels or found.channels or usual
    found = replace(found, network=network, classes=classes, channels=channels)
    try:
        model = found.model()
        images = torch.zeros(1, channels, *networks.INPUT_SHAPES[network][1:])
        with torch.no_grad():
            outputs = model.float()(images).shape[1]
    except (LookupError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{options.source} is not a {network} of {channels} channels: {reason}"
        ) from error
    if outputs != classes:
        raise ValueError(f"{options.source} tells {outputs} classes apart: say --classes {outputs}")
    # in the network's own order, so that the file need not list the tensors
    return replace(found, state={name: found.state[name] for name in model.state_dict()})
