"""The contracts: what a part is, in which order parts are asked, and what they may keep.

Read in this order: `stream` (what arrives), `rule` (what happens around a step), `method` (what knows tasks), `drive` (the
one order of hooks).
"""
