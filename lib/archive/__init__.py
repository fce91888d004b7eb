"""The compressed network as a file: small, whole or refused, the same weights on any machine."""

from lib.archive.breakdown import parts, sizes
from lib.archive.file import SUFFIX, Archive, decode, encode, read, save, write
from lib.archive.header import Unreadable
