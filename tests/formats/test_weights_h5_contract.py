"""HDF5 weights keep the contract of formats, whatever way their datasets are stored."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from tests.contracts.format_contract import Arrays, FormatContract


class TestContract(FormatContract):
    format_name = "keras-weights"
    file_name = "model.weights.h5"

    def make(self, path: Path) -> Arrays:
        rng = np.random.default_rng(0)
        kernel = rng.random((64, 48), "float32")
        with h5py.File(path, "w") as file:
            file["layers/dense/vars/0"] = kernel
            file["layers/dense/vars/1"] = np.arange(48, dtype=">f8")
            file["scalar"] = np.int32(7)
            file.create_dataset("unwritten", (5, 3), "float32", fillvalue=2.5)
            file.create_dataset(
                "encoded", data=kernel, chunks=(20, 48), compression="gzip", shuffle=True
            )
        found: Arrays = {}
        with h5py.File(path) as file:
            for name in ("layers/dense/vars/0", "layers/dense/vars/1", "encoded", "unwritten"):
                found[name] = file[name][()]
            found["scalar"] = np.asarray(file["scalar"][()])
        return found
