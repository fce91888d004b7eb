"""The networks that are compressed, by name; one file a family."""

from lib.networks.catalogue import BUILDERS, INPUT_SHAPES, build
