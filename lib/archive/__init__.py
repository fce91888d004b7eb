"""The compressed network as a file: small, whole or refused, the same weights on any machine."""

from lib.archive.breakdown import parts
from lib.archive.file import SUFFIX, Archive, Unreadable, decode, encode, read, save, sizes, write
