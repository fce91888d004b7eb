"""torchvision's MnasNet; apart, because importing torchvision takes a second."""

from torchvision.models import MNASNet


class MnasNet(MNASNet):
    """It also loads a state dict that names no version, as one read from a file does.

    torchvision raises for those, to tell its first version apart, which of width 1 was the same.
    """

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others) -> None:
        said = {"version": self._version} | local_metadata
        super()._load_from_state_dict(state_dict, prefix, said, *others)
