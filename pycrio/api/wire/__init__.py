"""Pure conversion between the CRI's messages and the model, one file per noun.

``decode`` functions raise InvalidRequest for what the model cannot hold (absent metadata, unknown enum numbers, ids
out of range); whatever depends on the node's state is the flows' to judge. ``encode`` functions never fail on a valid
model. Labels and annotations go through verbatim: clients keep their own state there.
"""
