"""Training: the one loop and its schedule, what a method is, evaluation, and several processes."""

from lib.training.evaluation import evaluate, image_losses, predict, recalibrate, training_images
from lib.training.loop import Diverged, OutOfTime, train
from lib.training.method import Method
from lib.training.schedule import Schedule
