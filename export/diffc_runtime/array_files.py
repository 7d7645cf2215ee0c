"""What numpy raises for a file of arrays, .npy or .npz, that is cut, empty or something else."""

from __future__ import annotations

import zipfile

DAMAGE = (OSError, EOFError, ValueError, zipfile.BadZipFile)
