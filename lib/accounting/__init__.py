"""What a network costs: its weights in bits and bytes, its forward pass in MACs."""

from lib.accounting.costs import WIDEST, bitwidth, layer_costs, nominal_bits, paid, shares, summary
from lib.accounting.products import counted, macs
from lib.accounting.undisturbed import undisturbed
