"""What a figure shows as a table, read from the drawn figure, whoever drew it.

The table has a row for each point of a line, each segment (error bars are segments), each level
across a panel, each bar, each text, each name on an axis and each title. It holds the values that
are drawn: where a figure clips or shifts what it was given, the table holds the clipped or shifted
values.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryLocator
from matplotlib.cbook import flatten
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator

from lib import atomic

#: ``panel`` counts the axes from 1 (0 is the figure), ``x_end`` and ``y_end`` are the other end of
#: a segment or corner of a bar, ``text`` is what is written there.
COLUMNS = ("panel", "title", "kind", "series", "x", "y", "x_end", "y_end", "text")

#: Significant digits that are written. Logarithms differ between processors in the sixteenth.
DIGITS = 9

#: Labels that Matplotlib gives to what has none.
AUTOMATIC = re.compile(r"_nolegend_|_(child|container)\d+")

Row = Mapping[str, object]


def of(figure: Figure) -> pd.DataFrame:
    """The data of a figure, with :data:`COLUMNS`, in the order of its axes.

    A coordinate that is not in the units of the data, such as the ends of a level, is NaN. A series
    has the label of what was drawn. Labels that begin with ``_`` name a series here, without the
    ``_``, and stay out of Matplotlib's legends. Raises ``ValueError`` for what it cannot read:
    images, contours, filled areas, scattered marks.
    """
    rows = [{"panel": 0, "kind": "title", "text": text.get_text()} for text in figure.texts]
    for panel, axes in enumerate(figure.axes, start=1):
        title = " ".join(filter(None, map(axes.get_title, ("left", "center", "right"))))
        rows += [{"panel": panel, "title": title} | row for row in _panel(axes)]
    nothing = {"title": "", "series": "", "text": ""}
    return pd.DataFrame([nothing | row for row in rows], columns=COLUMNS)


def save(table: pd.DataFrame, path: Path) -> None:
    """Writes :func:`of`'s table as CSV, whole or not at all, numbers with :data:`DIGITS` digits."""
    atomic.write(path, table.to_csv(index=False, float_format=f"%.{DIGITS}g").encode())


def _panel(axes: Axes) -> Iterator[Row]:
    _refuse_unknown(axes)
    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        if label := axis.get_label_text():
            yield {"kind": f"{name} label", "text": label}
        yield from _names(axis, name)
    series, caps = _containers(axes)
    for line in axes.lines:
        if line not in caps:
            kind = "points" if line.get_linestyle() == "None" else "line"
            points = _data(line, line.get_xydata())
            if np.isnan(points).all(axis=0).any():  # from edge to edge of the panel: a level
                kind, points = "level", points[:1]
            for x, y in points:
                yield {"kind": kind, "series": series(line), "x": x, "y": y}
    for drawn in axes.collections:
        for path in drawn.get_paths():
            yield from _spans("segment", series(drawn), _data(drawn, path.vertices))
    for bar in axes.patches:
        # a bar's own transform is from the unit square
        corners = _data(bar, bar.get_bbox().get_points(), bar.get_data_transform())
        yield from _spans("bar", series(bar), corners)
    for text in filter(Text.get_text, axes.texts):
        x, y = _place(text)
        yield {"kind": "text", "x": x, "y": y, "text": text.get_text()}


def _refuse_unknown(axes: Axes) -> None:
    drawn = [*axes.images, *axes.tables, *axes.artists, *axes.collections, *axes.patches]
    for artist in drawn:
        if type(artist) not in (LineCollection, Rectangle):
            raise ValueError(
                f"the data of {type(artist).__name__} cannot be read: draw lines, segments or "
                "bars, or teach lib.workbook.plots.figure_data to read it"
            )


def _names(axis: Axis, name: str) -> Iterator[Row]:
    """What stands at the places of an axis with names in place of numbers."""
    if isinstance(axis.get_major_locator(), FixedLocator | StrCategoryLocator):
        places = axis.get_majorticklocs()
        written = axis.get_major_formatter().format_ticks(places)
        for place, text in zip(places, written, strict=True):
            yield {"kind": f"{name} name", name: float(place), "text": text}


def _containers(axes: Axes):
    """What each artist's series is called, and the caps of error bars, which repeat their ends."""
    labels: dict[Artist, str] = {}
    caps: set[Artist] = set()
    for container in axes.containers:
        labels |= dict.fromkeys(filter(None, flatten(container)), container.get_label())
        if isinstance(container, ErrorbarContainer):
            caps |= set(container.lines[1])

    def series(artist: Artist) -> str:
        label = str(labels.get(artist, artist.get_label()))
        return "" if AUTOMATIC.fullmatch(label) else label.removeprefix("_")

    return series, caps


def _data(artist: Artist, points, transform=None) -> np.ndarray:
    """Points (n, 2); NaN along a direction in which they are placed by something but the data."""
    transform = artist.get_transform() if transform is None else transform
    placed = transform.contains_branch_seperately(artist.axes.transData)
    return np.where(placed, np.reshape(points, (-1, 2)), np.nan)


def _spans(kind: str, series: str, points: np.ndarray) -> Iterator[Row]:
    for (x, y), (x_end, y_end) in itertools.pairwise(points):
        ends = {"x": x, "y": y, "x_end": x_end, "y_end": y_end}
        yield {"kind": kind, "series": series} | ends


def _place(text: Text) -> tuple[float, float]:
    if not isinstance(text, Annotation):
        ((x, y),) = _data(text, text.get_unitless_position())
        return x, y
    systems = (text.xycoords,) * 2 if isinstance(text.xycoords, str) else text.xycoords
    place = (text.convert_xunits(text.xy[0]), text.convert_yunits(text.xy[1]))
    return tuple(
        float(value) if system == "data" else np.nan
        for value, system in zip(place, systems, strict=True)
    )
