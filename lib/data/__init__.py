"""Data sets, held whole as uint8 so that they fit on the device, or streamed: ``load(name)``.

One file a source: ``digits``, ``mnist``, ``cifar``, and ``folder`` for folders of images, all held;
``imagenet`` is streamed, and ``sample`` draws a small folder of its form.
"""

from lib.data.catalogue import HELD_OUT, NAMES, at_hand, describe, load
from lib.data.dataset import Dataset, Split, fingerprint, noise
from lib.data.mnist import MNIST_SHA256
from lib.data.pictures import DataUnavailable
from lib.data.streamed import Streamed
