"""What leaves the building: the serving runtime, copied as it stands into a bundle.

``runtime/`` is a package of its own: relative imports, numpy and one engine runtime, neither diffc
nor torch. diffc imports it as ``diffc.export.runtime``; a bundle has it as ``runtime``.
"""
