"""How fast a series becomes a volume, beside other readers of the same files in the same run.

    python tests/benchmarks/conversion.py [--quick] [--json FILE]

Two series are made from a seed: CT of 200 slices of 512 x 512, and PET of 200 slices of 128 x 128 with an own slope in
each. Every reader gives float32 (dcm2niix writes a file, so it is compared with reading and writing NIfTI here). Each
figure is the median of several rounds in which the readers take turns; the files are in the page cache for all.
`mirall convert` of 20 series is timed with one process and with two. Memory is the highest resident size of a fresh
process, less what it was before the series was read (Linux).
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT, PET = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.128"
# What the project asks of the readers: (ours must be this many times as fast).
BARS = {"SimpleITK": 1.0, "dcm2niix": 1.5, "highdicom": 4.0, "MONAI": 4.0}


def make(folder: Path, modality: str, slices: int, size: int, number: int = 0) -> list[Path]:
    """A series of noise with a valid header. The same arguments give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(number)
    paths = []
    for index in range(slices):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = PET if modality == "PT" else CT
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.77{number}0{index + 1}"
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"2.25.78{number}", f"2.25.79{number}"
        ds.FrameOfReferenceUID = f"2.25.76{number}"
        ds.Modality, ds.PatientID, ds.PatientName = modality, f"BENCH{number}", "Bench"
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        ds.SeriesDate = ds.AcquisitionDate = ds.StudyDate = "20240101"
        ds.SeriesTime = ds.AcquisitionTime = ds.StudyTime = "101500"
        ds.InstanceNumber, ds.SliceThickness = slices - index, 3.0
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-200.0, -180.0, 3.0 * index], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [0.8, 0.7]
        ds.Rows = ds.Columns = size
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleIntercept = -1024 if modality == "CT" else 0
        ds.RescaleSlope = 1 if modality == "CT" else 0.5 + 0.01 * index
        if modality == "PT":
            _make_quantitative(ds)
        ds.PixelData = random.integers(0, 3000, (size, size)).astype("<i2").tobytes()
        path = folder / f"{index:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _make_quantitative(ds: Dataset) -> None:
    ds.Units, ds.DecayCorrection, ds.CorrectedImage = "BQML", "START", ["ATTN", "DECY"]
    ds.PatientWeight, ds.ActualFrameDuration, ds.FrameReferenceTime = 70, 180000, 0
    dose = Dataset()
    dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = 3.7e8, 6586.2
    dose.RadiopharmaceuticalStartTime = "091500"
    ds.RadiopharmaceuticalInformationSequence = [dose]


# The readers


def ours(folder: Path) -> np.ndarray:
    from dicom_io import series

    (found,) = series.volumes([folder]).volumes
    return found.volume.voxels


def plain_pydicom(folder: Path) -> np.ndarray:
    """What a script would do: no checks, one array made beforehand."""
    paths = sorted(folder.iterdir())
    first = pydicom.dcmread(paths[0])
    out = np.empty((len(paths), first.Rows, first.Columns), np.float32)
    for place, path in zip(out, paths, strict=True):
        ds = pydicom.dcmread(path)
        np.multiply(ds.pixel_array, np.float32(ds.RescaleSlope), out=place)
        place += np.float32(ds.RescaleIntercept)
    return out


def simple_itk(folder: Path) -> np.ndarray:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in sorted(folder.iterdir())])
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    return np.asarray(SimpleITK.GetArrayFromImage(reader.Execute()))


def monai(folder: Path) -> np.ndarray:
    from monai.transforms import LoadImage

    return np.asarray(LoadImage(reader="PydicomReader", image_only=True)(folder))


def highdicom(folder: Path) -> np.ndarray:
    import highdicom as hd

    datasets = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    return np.asarray(hd.get_volume_from_series(datasets, dtype=np.float32).array)


def dcm2niix(folder: Path) -> np.ndarray:
    out = Path(tempfile.mkdtemp(dir=folder.parent))
    subprocess.run(["dcm2niix", "-b", "n", "-z", "n", "-o", out, folder], check=True, capture_output=True)
    shutil.rmtree(out)
    return np.empty(0)


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "mirall": ours,
    "plain pydicom": plain_pydicom,
    "SimpleITK": simple_itk,
    "highdicom": highdicom,
    "MONAI": monai,
    **({"dcm2niix": dcm2niix} if shutil.which("dcm2niix") else {}),
}


def compare(folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of each reader."""
    times: dict[str, list[float]] = {name: [] for name in READERS}
    for turn in range(rounds + 1):
        for name, read in READERS.items():
            gc.collect()  # no reader pays for what another one left
            start = time.perf_counter()
            read(folder)
            if turn:  # the first round imports
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def peak_memory_mb(folder: Path) -> float:
    """Highest resident size while the series is read, above that of a process that has imported everything."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (folder,))


def _measured(folder: Path) -> float:
    from dicom_io import series

    # Decoders are imported with the first use; a small series is read before the measurement.
    series.volumes([folder.parent / "small"])
    before = _resident_kb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is now
    ours(folder)
    return (_resident_kb("VmHWM") - before) / 1024


def _resident_kb(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def convert_seconds(source: Path, out: Path, processes: int) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "plugin.cli", "convert", source, "--out", out, "--processes", processes]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer slices, one round: whether it runs")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    given = parser.parse_args()
    slices, rounds, several = (12, 1, 3) if given.quick else (200, 5, 20)
    figures: dict[str, Any] = {"slices": slices, "rounds": rounds}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        make(base / "small", "CT", 3, 32)
        for name, modality, size in (("CT 512", "CT", 512), ("PET 128", "PT", 128)):
            folder = base / modality
            make(folder, modality, slices, size, number=1)
            times = compare(folder, rounds)
            memory = peak_memory_mb(folder)
            volume_mb = slices * size * size * 4 / 2**20
            figures[name] = {"seconds": times, "peak_mb": memory, "volume_mb": volume_mb}
            print(f"{name} x {slices}: volume {volume_mb:.0f} MB, peak memory {memory:.0f} MB above the start")
            for reader, seconds in times.items():
                ratio = seconds / times["mirall"]
                bar = f"  (bar {BARS[reader]})" if reader in BARS else ""
                print(f"  {reader:14} {seconds:7.3f} s   {ratio:5.2f} of ours{bar}")
        figures["convert"] = {}
        for length in (slices // 4, slices):
            source = base / f"several-{length}"
            for number in range(several):
                make(source / str(number), "CT", length, 256, number=10 + number)
            turns = [
                (
                    convert_seconds(source, base / f"one-{length}-{n}", 1),
                    convert_seconds(source, base / f"two-{length}-{n}", 2),
                )
                for n in range(1 if given.quick else 3)
            ]
            one, two = (statistics.median(column) for column in zip(*turns, strict=True))
            figures["convert"][length] = {"one_process_s": one, "two_processes_s": two, "ratio": one / two}
            print(
                f"convert of {several} series of {length} x 256 x 256: {one:.2f} s with one process, {two:.2f} s "
                f"with two: {one / two:.2f}  (bar 1.7)"
            )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
